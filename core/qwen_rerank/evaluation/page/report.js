"use strict";
// Texts of queries and documents are only ever set with textContent.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const controls = {
  measure: byId("measure"), baseline: byId("baseline"), run: byId("run"),
  change: byId("change"), language: byId("language"), text: byId("text"),
};
const SAME = 1e-9;
const state = { sort: "gain", ascending: true, chosen: null, shown: [] };

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function fill(select, names, chosen) {
  select.replaceChildren(...names.map((name, at) => element("option", { value: at }, name)));
  select.value = String(chosen);
}

const signed = (number) => (number > 0 ? "+" : number < 0 ? "\u2212" : "") + Math.abs(number).toFixed(3);
const scoreText = (score) => (score === null ? "no score" : `score ${Number(score.toPrecision(4))}`);

// --- The table of queries

function columns() {
  const measure = Number(controls.measure.value);
  const baseline = Number(controls.baseline.value), run = Number(controls.run.value);
  const single = data.runs.length === 1;
  const value = (at) => (query) => query.values[measure][at];
  return [
    { key: "id", heading: "id", of: (query) => query.id },
    { key: "text", heading: "query", of: (query) => query.text },
    ...(data.languages.length ? [{ key: "language", heading: data.languageLabel, of: (query) => data.languages[query.language] ?? "" }] : []),
    { key: "before", heading: data.runs[baseline], number: true, of: value(baseline) },
    ...(single ? [] : [
      { key: "after", heading: data.runs[run], number: true, of: value(run) },
      { key: "gain", heading: "gain", number: true, of: (query) => query.values[measure][run] - query.values[measure][baseline] },
    ]),
  ];
}

function gainOf(query) {
  const measure = Number(controls.measure.value);
  return query.values[measure][Number(controls.run.value)] - query.values[measure][Number(controls.baseline.value)];
}

function isShown(query) {
  const gain = gainOf(query);
  const change = gain > SAME ? "better" : gain < -SAME ? "worse" : "same";
  if (controls.change.value !== "all" && controls.change.value !== change) return false;
  if (controls.language.value && String(query.language) !== controls.language.value) return false;
  const wanted = controls.text.value.trim().toLowerCase();
  return !wanted || query.id.toLowerCase().includes(wanted) || query.text.toLowerCase().includes(wanted);
}

function showHeadings() {
  byId("headings").replaceChildren(...columns().map((column) => {
    const sorted = column.key === state.sort;
    const button = element("button", { type: "button", "data-key": column.key },
      column.heading + (sorted ? (state.ascending ? " \u2191" : " \u2193") : ""));
    button.addEventListener("click", () => {
      state.ascending = sorted ? !state.ascending : !column.number || column.key === "gain";
      state.sort = column.key;
      showList();
      byId("headings").querySelector(`[data-key="${column.key}"]`).focus();
    });
    return element("th", {
      scope: "col", class: column.number ? "number" : "",
      "aria-sort": sorted ? (state.ascending ? "ascending" : "descending") : "none",
    }, button);
  }));
}

function row(query, shownColumns) {
  const made = element("tr", { tabindex: "-1", "aria-selected": "false", "data-at": query.at });
  for (const column of shownColumns) {
    const value = column.of(query);
    const cell = element("td", { class: column.number ? "number" : column.key === "text" ? "text" : "" });
    if (column.key === "gain") {
      if (value > SAME) cell.className = "number better";
      if (value < -SAME) cell.className = "number worse";
      cell.textContent = signed(Math.abs(value) > SAME ? value : 0);
    } else {
      cell.textContent = column.number ? value.toFixed(3) : value;
    }
    made.append(cell);
  }
  return made;
}

function showList() {
  const shownColumns = columns();
  const column = shownColumns.find((each) => each.key === state.sort) ?? shownColumns[0];
  state.sort = column.key;
  const collator = new Intl.Collator(undefined, { numeric: true });
  const order = column.number
    ? (one, other) => column.of(one) - column.of(other)
    : (one, other) => collator.compare(column.of(one), column.of(other));
  state.shown = data.queries.filter(isShown).sort((one, other) => (state.ascending ? order(one, other) : order(other, one)));
  showHeadings();
  byId("rows").replaceChildren(...state.shown.map((query) => row(query, shownColumns)));
  byId("count").textContent = `${state.shown.length} of ${data.queries.length} queries`;
  choose(state.shown.includes(state.chosen) ? state.chosen : state.shown[0] ?? null);
}

function choose(query, focus = false) {
  state.chosen = query;
  for (const each of byId("rows").querySelectorAll('[aria-selected="true"]')) {
    each.setAttribute("aria-selected", "false");
    each.tabIndex = -1;
  }
  if (query !== null) {
    const chosen = byId("rows").querySelector(`[data-at="${query.at}"]`);
    chosen.setAttribute("aria-selected", "true");
    chosen.tabIndex = 0;
    if (focus) chosen.focus();
  }
  showDetails(query);
}

// --- One query

function moved(rank, before) {
  if (before === undefined) return element("span", { class: "move" }, "new");
  if (before === rank) return element("span", { class: "move" }, "= same rank");
  return rank < before
    ? element("span", { class: "move better" }, `\u25b2 up ${before - rank}`)
    : element("span", { class: "move worse" }, `\u25bc down ${rank - before}`);
}

function goes(after) {
  return element("span", { class: "move" }, after === undefined ? "\u2192 not shown" : `\u2192 ${after}`);
}

function documentText(document, passage) {
  const made = element("div", { class: "document", dir: "auto" });
  if (passage) {
    const [before, won, after] = passage;
    made.append(before, element("mark", { title: "the passage that won" }, won), after);
  } else {
    made.textContent = data.texts[document] ?? "";
  }
  return made;
}

function ranking(query, run, other, isBaseline) {
  const ranks = new Map(query.rankings[other].map(([document], at) => [document, at + 1]));
  return element("ol", { class: "ranking" }, ...query.rankings[run].map(([document, score, passage], at) => {
    const gain = query.gains[document] ?? null;
    const facts = element("div", { class: "facts" }, element("span", { class: "rank" }, String(at + 1)));
    if (run !== other) facts.append(isBaseline ? goes(ranks.get(document)) : moved(at + 1, ranks.get(document)));
    facts.append(element("span", {}, scoreText(score)));
    if (gain > 0) facts.append(element("span", { class: "gain" }, `\u2713 relevant, gain ${gain}`));
    else facts.append(element("span", {}, gain === null ? "not judged" : "not relevant"));
    facts.append(element("span", { class: "id" }, data.ids[document]));
    const item = element("li", { "data-document": document, class: gain > 0 ? "relevant" : "" }, facts, documentText(document, passage));
    for (const [event, on] of [["mouseenter", true], ["mouseleave", false]]) {
      item.addEventListener(event, () => {
        for (const each of byId("details").querySelectorAll(`[data-document="${document}"]`)) each.classList.toggle("same-document", on);
      });
    }
    return item;
  }));
}

function showDetails(query) {
  const details = byId("details");
  if (query === null) {
    details.replaceChildren(element("p", { class: "note" }, "No query matches the filters."));
    return;
  }
  const baseline = Number(controls.baseline.value), run = Number(controls.run.value);
  const values = data.measures.map((measure, at) => {
    const [before, after] = [query.values[at][baseline], query.values[at][run]];
    return baseline === run ? `${measure} ${before.toFixed(3)}` : `${measure} ${before.toFixed(3)} \u2192 ${after.toFixed(3)}`;
  });
  const found = (at) => query.rankings[at].filter(([document]) => query.gains[document] > 0).length;
  const heading = (at) => `${data.runs[at]}: ${found(at)} of ${query.relevant} relevant`;
  const list = (at, other) => element("div", {}, element("h3", {}, heading(at)), ranking(query, at, other, at === baseline));
  details.replaceChildren(
    element("h2", { dir: "auto" }, query.text || query.id),
    element("p", { class: "note" }, `${query.text ? `${query.id} \u00b7 ` : ""}${values.join(" \u00b7 ")}`),
    baseline === run ? list(run, run) : element("div", { class: "pair" }, list(baseline, run), list(run, baseline)),
  );
  details.scrollTop = 0;
}

// --- Histograms

function histogram(caption, groups, lowest, highest, description) {
  const bins = 20, width = 420, height = 130, foot = 18, step = (highest - lowest) / bins || 1;
  const counted = groups.map(({ values }) => {
    const counts = new Array(bins).fill(0);
    for (const value of values) counts[Math.max(0, Math.min(bins - 1, Math.floor((value - lowest) / step + SAME)))] += 1;
    return counts.map((count) => count / (groups.length > 1 ? Math.max(1, values.length) : 1));
  });
  const most = Math.max(...counted.flat(), SAME);
  const svg = drawn("svg", { width, height: height + foot, viewBox: `0 0 ${width} ${height + foot}`, role: "img", "aria-label": description });
  const slot = width / bins, bar = (slot - 3) / groups.length;
  counted.forEach((counts, group) => counts.forEach((count, at) => {
    const tall = (count / most) * (height - 4);
    const middle = lowest + (at + 0.5) * step;
    svg.append(drawn("rect", {
      x: at * slot + 1 + group * bar, y: height - tall, width: bar, height: tall,
      class: `bar-${groups[group].look(middle)}`,
    }));
  }));
  svg.append(drawn("line", { x1: 0, x2: width, y1: height, y2: height, class: "axis" }));
  [["start", 0, lowest], ["middle", width / 2, (lowest + highest) / 2], ["end", width, highest]].forEach(([anchor, x, value]) =>
    svg.append(drawn("text", { x, y: height + 14, "text-anchor": anchor }, String(Number(value.toPrecision(3))))));
  return element("figure", {}, element("figcaption", {}, caption), svg, element("p", { class: "note" }, description));
}

function gainsChart() {
  const gains = data.queries.map(gainOf);
  const reach = Math.max(0.05, ...gains.map(Math.abs));
  const better = gains.filter((gain) => gain > SAME).length, worse = gains.filter((gain) => gain < -SAME).length;
  const look = (middle) => (middle > 0 ? "better" : "worse");
  return histogram(`Gain in ${data.measures[controls.measure.value]} per query`,
    [{ values: gains.filter((gain) => Math.abs(gain) > SAME), look }], -reach, reach,
    `${better} better, ${worse} worse; ${gains.length - better - worse} unchanged are not drawn.`);
}

function scoresChart() {
  const run = Number(controls.run.value), relevant = [], others = [];
  for (const query of data.queries) {
    for (const [document, score] of query.rankings[run]) {
      if (score !== null) ((query.gains[document] ?? 0) > 0 ? relevant : others).push(score);
    }
  }
  if (!relevant.length || !others.length) return null;
  let lowest = Infinity, highest = -Infinity;
  for (const score of relevant.concat(others)) { lowest = Math.min(lowest, score); highest = Math.max(highest, score); }
  return histogram(`Scores in ${data.runs[run]}`,
    [{ values: relevant, look: () => "relevant" }, { values: others, look: () => "other" }], lowest, highest,
    `Green: ${relevant.length} scores of relevant documents. Grey: ${others.length} of all others. Each as a share of its group.`);
}

function showCharts() {
  const charts = [controls.baseline.value === controls.run.value ? null : gainsChart(), scoresChart()];
  byId("charts").replaceChildren(...charts.filter((chart) => chart !== null));
}

// --- Wiring

data.queries.forEach((query, at) => { query.at = at; });
fill(controls.measure, data.measures, 0);
fill(controls.baseline, data.runs, 0);
fill(controls.run, data.runs, Math.min(1, data.runs.length - 1));
controls.language.replaceChildren(element("option", { value: "" }, "all"),
  ...data.languages.map((name, at) => element("option", { value: at }, name)));
byId("language-label").hidden = data.languages.length < 2;
for (const name of ["baseline", "run"]) controls[name].parentElement.hidden = data.runs.length < 2;
controls.change.parentElement.hidden = data.runs.length < 2;

for (const name of ["measure", "baseline", "run"]) {
  controls[name].addEventListener("change", () => { showList(); showCharts(); });
}
for (const name of ["change", "language"]) controls[name].addEventListener("change", showList);
controls.text.addEventListener("input", showList);
byId("filters").addEventListener("submit", (event) => event.preventDefault());

byId("rows").addEventListener("click", (event) => {
  const clicked = event.target.closest("tr");
  if (clicked) choose(data.queries[Number(clicked.dataset.at)], true);
});
byId("rows").addEventListener("keydown", (event) => {
  const at = state.shown.indexOf(state.chosen), last = state.shown.length - 1;
  const next = { ArrowDown: Math.min(at + 1, last), ArrowUp: Math.max(at - 1, 0), Home: 0, End: last }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  choose(state.shown[next], true);
});

showList();
showCharts();
