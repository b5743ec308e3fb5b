"""Tables, plots, fonts and HTML pages. Knows no task."""
