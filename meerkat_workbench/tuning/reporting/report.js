// The report's question browser and charts. Text from models and files is inserted as text only, never as HTML.
(async () => {
  const read = id => JSON.parse(document.getElementById(id).textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.classList.toggle("dark", dark);
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const number = (value, sign) => value === null ? "–" : (sign && value > 0 ? "+" : "") + value.toFixed(3);

  // numbers and negations, which are bold within a mark
  const NUMBER_OR_NEGATION = /(\S*\d\S*|\b(?:no|not|never|without|avoid|cannot)\b)/i;
  // a paragraph of parts, which are alternately equal to the other text and different from it; the different ones are marked
  function markedText(parts) {
    const paragraph = make("p", { dir: "auto" });  // Arabic and Hebrew run from right to left
    parts.forEach((part, index) => {
      if (index % 2 === 0) { paragraph.append(part); return; }
      paragraph.append(make("mark", {}, ...part.split(NUMBER_OR_NEGATION).map((piece, i) => i % 2 ? make("b", {}, piece) : piece)));
    });
    return paragraph;
  }

  const data = read("questions-data"), rows = data.rows;
  const state = { metric: data.steering };
  const scoreOf = (row, system) => row.scores[system][data.metrics.indexOf(state.metric)];
  const changeOf = row => {
    const [base, tuned] = [scoreOf(row, "base"), scoreOf(row, "tuned")];
    return base === null || tuned === null ? null : data.lower_is_better.includes(state.metric) ? base - tuned : tuned - base;
  };
  const searchText = row => row.searchText ??= [row.question, row.reference.join(""), ...Object.values(row.answers).map(parts => parts.join("")), row.id].join(" ");
  // DataTables decodes entities in the text that it searches through innerHTML; decoding the escaped text gives back the text alone
  const escaped = text => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const field = id => document.getElementById(id);

  function answersOf(row) {
    const box = make("div", { class: "answers" }, make("div", {}, make("h3", {}, "reference"), markedText(row.reference)));
    for (const system of data.systems) {
      const labels = [system, number(scoreOf(row, system)), row.finish[system], ...row.checks[system].map(check => check.replaceAll("_", " "))];
      box.append(make("div", {}, make("h3", {}, labels.join(" · ")), markedText(row.answers[system])));
    }
    const link = make("p", {}, make("a", { href: "#q-" + row.id }, "link to this question"));
    return make("div", {}, box, make("small", {}, link));
  }

  const source = new Blob([Uint8Array.from(atob(field("datatables-source").textContent), letter => letter.charCodeAt(0))], { type: "text/javascript" });
  const { default: DataTable } = await import(URL.createObjectURL(source));
  const tone = change => change > 0.05 ? "better" : change < -0.05 ? "worse" : "noise";
  // columns render DOM nodes for display and plain values for sorting and searching, so no text of a model is parsed as HTML
  const numberColumn = (title, valueOf, options = {}) => ({ title, data: null, render: (_, type, row) => {
    const value = valueOf(row);
    if (type !== "display") return type === "filter" ? "" : value ?? 9e9;
    return make("span", valueOf === changeOf ? { class: tone(value) } : {}, number(value, valueOf === changeOf));
  }, ...options });
  const textColumn = (title, textOf) => ({ title, data: null, className: "left roomy", render: (_, type, row) => type === "display" ? make("span", {}, textOf(row)) : type === "filter" ? "" : textOf(row) });
  const renderQuestion = (_, type, row) => type === "filter" ? escaped(searchText(row)) : type !== "display" ? row.question
    : make("button", { class: "open", "aria-expanded": String(row.open ?? false), dir: "auto" }, row.question);
  const table = new DataTable("#explorer", {
    data: rows, deferRender: true, pageLength: 25, order: [[0, "asc"]], autoWidth: false,
    layout: { topStart: "info", topEnd: "search", bottomStart: "pageLength", bottomEnd: "paging" },
    language: { search: "search texts", info: "_TOTAL_ questions", infoFiltered: "of _MAX_", infoEmpty: "no questions", zeroRecords: "No question matches; clear a filter." },
    columns: [
      numberColumn("change", changeOf),
      numberColumn("base", row => scoreOf(row, "base"), { className: "roomy" }),
      numberColumn("tuned", row => scoreOf(row, "tuned"), { className: "roomy" }),
      { title: "question", data: null, className: "left", render: renderQuestion },
      textColumn("specialty", row => row.specialty.replaceAll("_", " ")),
      textColumn("split", row => row.split),
      textColumn("findings", row => row.checks.tuned.map(check => check.replaceAll("_", " ")).join(", ")),
    ],
  });

  table.search.fixed("filters", (_, row) => {
    const [specialty, split, mark] = ["specialty", "split", "mark"].map(id => field(id).value);
    return (!specialty || row.specialty === specialty) && (!split || row.split === split) && (!mark || row.checks.tuned.includes(mark));
  });
  for (const id of ["specialty", "split", "mark"]) field(id).addEventListener("change", () => table.draw());
  field("metric").addEventListener("change", () => { state.metric = field("metric").value; table.rows().invalidate("data"); table.order([[0, "asc"]]).draw(); });
  field("marking").addEventListener("change", () => field("explorer").classList.toggle("marking", field("marking").checked));
  field("clear").addEventListener("click", () => show({}));

  function toggle(row, shown = !row.child.isShown()) {
    if (shown) row.child(answersOf(row.data()), "child-of").show(); else row.child.hide();
    row.data().open = shown;
    row.node().querySelector("button.open").setAttribute("aria-expanded", String(shown));
  }
  field("explorer").addEventListener("click", event => {
    const button = event.target.closest("button.open");
    if (button) toggle(table.row(button.closest("tr")));
  });

  function show({ specialty = "", split = "", mark = "" }) {
    field("specialty").value = specialty; field("split").value = split; field("mark").value = mark;
    table.search("").draw();
  }
  for (const link of document.querySelectorAll("a[data-mark]")) link.addEventListener("click", () => show({ mark: link.dataset.mark, split: link.dataset.split }));

  // open the question that the address links to, with all filters cleared
  function openLinkedQuestion() {
    const id = decodeURIComponent(location.hash.slice(1)), index = rows.findIndex(row => "q-" + row.id === id);
    if (index < 0) return;
    show({});
    const position = table.rows({ order: "applied", search: "applied" }).indexes().toArray().indexOf(index);
    table.page(Math.floor(position / table.page.len())).draw("page");
    const row = table.row(index);
    toggle(row, true);
    row.node().scrollIntoView();
  }
  addEventListener("hashchange", openLinkedQuestion);
  openLinkedQuestion();

  const chartOptions = { actions: false, renderer: "svg", theme: dark ? "dark" : undefined, config: { background: "transparent", font: "system-ui, sans-serif" } };
  for (const box of document.querySelectorAll(".chart")) {
    const { view } = await vegaEmbed(box, read(box.id + "-data"), chartOptions);
    view.addEventListener("click", (_, item) => {
      const name = item?.datum?.specialty?.replaceAll(" ", "_");
      if (!name || ![...field("specialty").options].some(option => option.value === name)) return;
      show({ specialty: name });
      field("questions").scrollIntoView();
    });
  }
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(details => details.open = true));
  document.documentElement.dataset.ready = "yes";
})();
