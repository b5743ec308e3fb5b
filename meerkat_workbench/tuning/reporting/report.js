// The report's explorer and charts. Text of models and files only ever becomes text: no innerHTML from data.
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

  // parts alternate: as in the other text, not as in the other text; numbers and denials of the latter stand out
  const TELLING = /(\S*\d\S*|\b(?:no|not|never|without|avoid|cannot)\b)/i;
  function text(parts) {
    const p = make("p", { dir: "auto" });  // Arabic and Hebrew run from the right
    parts.forEach((part, place) => {
      if (place % 2 === 0) { p.append(part); return; }
      p.append(make("mark", {}, ...part.split(TELLING).map((piece, i) => i % 2 ? make("b", {}, piece) : piece)));
    });
    return p;
  }

  const data = read("questions-data"), rows = data.rows;
  const state = { metric: data.steering };
  const scoreOf = (row, arm) => row.scores[arm][data.metrics.indexOf(state.metric)];
  const changeOf = row => {
    const [base, tuned] = [scoreOf(row, "base"), scoreOf(row, "tuned")];
    return base === null || tuned === null ? null : data.lower_is_better.includes(state.metric) ? base - tuned : tuned - base;
  };
  const words = row => row.words ??= [row.question, row.reference.join(""), ...Object.values(row.answers).map(a => a.join("")), row.id].join(" ");
  // DataTables reads entities in what it searches by way of innerHTML; escaped, that gives back the text and nothing else
  const escaped = text => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const field = id => document.getElementById(id);

  function answersOf(row) {
    const box = make("div", { class: "answers" }, make("div", {}, make("h3", {}, "reference"), text(row.reference)));
    for (const arm of data.systems) {
      const says = [arm, number(scoreOf(row, arm)), row.finish[arm], ...row.checks[arm].map(check => check.replaceAll("_", " "))];
      box.append(make("div", {}, make("h3", {}, says.join(" · ")), text(row.answers[arm])));
    }
    const link = make("p", {}, make("a", { href: "#q-" + row.id }, "link to this question"));
    return make("div", {}, box, make("small", {}, link));
  }

  const source = new Blob([Uint8Array.from(atob(field("datatables-source").textContent), letter => letter.charCodeAt(0))], { type: "text/javascript" });
  const { default: DataTable } = await import(URL.createObjectURL(source));
  const tone = change => change > 0.05 ? "better" : change < -0.05 ? "worse" : "noise";
  // nodes for the eye, plain values for sorting and searching; what a model said never passes as HTML
  const figures = (title, of, more = {}) => ({ title, data: null, render: (_, type, row) => {
    const value = of(row);
    if (type !== "display") return type === "filter" ? "" : value ?? 9e9;
    return make("span", of === changeOf ? { class: tone(value) } : {}, number(value, of === changeOf));
  }, ...more });
  const texts = (title, of, more = {}) => ({ title, data: null, className: "left roomy", render: (_, type, row) => type === "display" ? make("span", {}, of(row)) : type === "filter" ? "" : of(row), ...more });
  const question = (_, type, row) => type === "filter" ? escaped(words(row)) : type !== "display" ? row.question
    : make("button", { class: "open", "aria-expanded": String(row.open ?? false), dir: "auto" }, row.question);
  const table = new DataTable("#explorer", {
    data: rows, deferRender: true, pageLength: 25, order: [[0, "asc"]], autoWidth: false,
    layout: { topStart: "info", topEnd: "search", bottomStart: "pageLength", bottomEnd: "paging" },
    language: { search: "search texts", info: "_TOTAL_ questions", infoFiltered: "of _MAX_", infoEmpty: "no question", zeroRecords: "No question is left; clear a filter." },
    columns: [
      figures("change", changeOf),
      figures("base", row => scoreOf(row, "base"), { className: "roomy" }),
      figures("tuned", row => scoreOf(row, "tuned"), { className: "roomy" }),
      { title: "question", data: null, className: "left", render: question },
      texts("specialty", row => row.specialty.replaceAll("_", " ")),
      texts("split", row => row.split),
      texts("look at", row => row.checks.tuned.map(check => check.replaceAll("_", " ")).join(", ")),
    ],
  });

  table.search.fixed("choices", (_, row) => {
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

  function open() {
    const id = decodeURIComponent(location.hash.slice(1)), index = rows.findIndex(row => "q-" + row.id === id);
    if (index < 0) return;
    show({});
    const place = table.rows({ order: "applied", search: "applied" }).indexes().toArray().indexOf(index);
    table.page(Math.floor(place / table.page.len())).draw("page");
    const row = table.row(index);
    toggle(row, true);
    row.node().scrollIntoView();
  }
  addEventListener("hashchange", open);
  open();

  const look = { actions: false, renderer: "svg", theme: dark ? "dark" : undefined, config: { background: "transparent", font: "system-ui, sans-serif" } };
  for (const box of document.querySelectorAll(".chart")) {
    const { view } = await vegaEmbed(box, read(box.id + "-data"), look);
    view.addEventListener("click", (_, item) => {
      const name = item?.datum?.specialty?.replaceAll(" ", "_");
      if (!name || ![...field("specialty").options].some(option => option.value === name)) return;
      show({ specialty: name });
      field("questions").scrollIntoView();
    });
  }
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(one => one.open = true));
  document.documentElement.dataset.ready = "yes";
})();
