// State and drawing of the page. `DATA` is the JSON from html.py.

const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const state = { part: 0, kinds: new Set(), words: "", sort: null, shows: "accuracy", task: 0, off: new Set(), listed: 0 };
const BATCH = 50;
const DASH = "–";

const percent = (value) => (value === null || value === undefined ? DASH : (100 * value).toFixed(1));
const spread = ([mean, deviation]) => (deviation === null ? percent(mean) : `${percent(mean)} ± ${percent(deviation)}`);
const count = (value) => (value === null ? DASH : Math.round(value).toLocaleString("en-US"));
const plural = (number, word) => `${number.toLocaleString("en-US")} ${word}${number === 1 ? "" : "s"}`;
const noted = (text) => (DATA.note ? `${text}; ${DATA.note}` : text);
const part = () => DATA.parts[state.part];

/** Search terms: single words, or phrases in quotation marks. */
function terms(text) {
  return (text.toLowerCase().match(/"[^"]+"|\S+/g) ?? []).map((term) => term.replaceAll('"', "")).filter(Boolean);
}

/** Rows that pass the filters, in the order of the sweep. */
function rows() {
  const words = terms(state.words);
  const methods = (row) => row.cells.flatMap((cell) => cell.methods).join(" ");
  return part().rows.filter((row) => {
    const text = `${row.label} ${row.kind} ${methods(row)}`.toLowerCase();
    return !state.kinds.has(row.kind) && words.every((word) => text.includes(word));
  });
}

function duration(seconds) {
  if (seconds < 120) return `${seconds.toFixed(0)} s`;
  return seconds < 7200 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function stepTime(seconds) {
  return seconds < 1 ? `${(1000 * seconds).toPrecision(3)} ms` : `${seconds.toPrecision(3)} s`;
}

function bytes(number) {
  return number < 2 ** 30 ? `${(number / 2 ** 20).toFixed(0)} MiB` : `${(number / 2 ** 30).toFixed(1)} GiB`;
}

// Header.

function drawHead() {
  const { cells } = DATA;
  const all = cells.done + cells.failed + cells.unfinished;
  const rest = [cells.failed && `${cells.failed} failed`, cells.unfinished && `${cells.unfinished} unfinished`].filter(Boolean);
  $("name").textContent = DATA.name;
  $("protocol").textContent = DATA.protocol;
  if (DATA.note) {
    $("note").hidden = false;
    $("note").textContent = `${DATA.note[0].toUpperCase()}${DATA.note.slice(1)}.`;
  }
  const tasks = new Set(DATA.parts.flatMap((each) => each.tasks.map((task) => task.name)));
  const labels = new Set(DATA.parts.flatMap((each) => each.rows.map((row) => row.label)));
  const facts = [
    ["Methods", labels.size], ["Tasks", tasks.size], ["Seeds", DATA.seeds.length],
    ["Runs", DATA.runs.length.toLocaleString("en-US")],
    ["Cells", rest.length ? `${cells.done} of ${all}` : String(all), rest.join(", ")],
    ...(DATA.seconds ? [["Training", duration(DATA.seconds), `on ${DATA.machines.join(", ")}`]] : []),
  ];
  $("facts").append(...facts.map(([name, value, more]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, String(value), more ? el("small", {}, more) : null))));
  $("settings").append(...Object.entries(DATA.settings).map(([name, value]) =>
    el("div", {}, el("dt", {}, name.replaceAll("_", " ")), el("dd", {}, String(value)))));
}

/** Radio buttons, styled as one segmented control. */
function segments(box, name, options, chosen, choose) {
  box.replaceChildren(...options.map(([value, text]) => el("label", {},
    el("input", { type: "radio", name, value, checked: value === chosen, onchange: () => choose(value) }), el("span", {}, text))));
}

function drawBar() {
  const pick = (value) => { Object.assign(state, { part: value, sort: null, task: 0 }); drawKinds(); drawAll(); };
  $("parts").hidden = DATA.parts.length < 2;
  segments($("parts"), "part", DATA.parts.map((each, index) => [index, each.name]), state.part, pick);
  const options = [["accuracy", "Accuracy"], ["options", "Chosen options"], ["parameters", "Parameters"]];
  segments($("shows"), "shows", options, state.shows, (value) => { state.shows = value; drawTable(); });
  $("filter").addEventListener("input", () => { state.words = $("filter").value; drawAll(); });
  $("task").addEventListener("change", () => { state.task = Number($("task").value); drawTraining(); });
  drawKinds();
}

function drawKinds() {
  const kinds = [...new Set(part().rows.map((row) => row.kind))];
  $("kinds").hidden = kinds.length < 2;
  $("kinds").replaceChildren(...kinds.map((kind) => {
    const change = (event) => { state.kinds[event.target.checked ? "delete" : "add"](kind); drawAll(); };
    return el("label", {}, el("input", { type: "checkbox", value: kind, checked: !state.kinds.has(kind), onchange: change }), el("span", {}, kind));
  }));
}

// Table.

function options(cell) {
  const methods = cell.methods.map((method) => method.split(":").slice(1).join(":") || method);
  const scales = cell.scales.filter((scale) => scale !== null).map((scale) => `scale ${scale}`);
  const rates = cell.rates.map((rate) => `learning rate ${rate}`);
  return [...methods, ...scales, ...rates].join(", ") || DASH;
}

function sorted(list) {
  if (!state.sort) return list;
  const { column, up } = state.sort;
  const key = (row) => (column < 0 ? row.label.toLowerCase() : row.table[column][1]);
  const order = (one, other) => (one < other ? -1 : one > other ? 1 : 0);
  const [known, unknown] = [list.filter((row) => key(row) !== null), list.filter((row) => key(row) === null)];
  known.sort((one, other) => (up ? 1 : -1) * order(key(one), key(other)));
  return [...known, ...unknown];
}

function heading(column, text, upright = false, bold = true) {
  const { sort } = state;
  const now = sort && sort.column === column ? (sort.up ? "ascending" : "descending") : "none";
  const first = column < 0 || part().columns[column].heading === "parameters";
  const press = () => {
    state.sort = { column, up: now === "none" ? first : now === "descending" };
    drawTable();
    $("table-box").querySelector(`[data-column="${column}"]`).focus();
  };
  return el("th", { scope: "col", "aria-sort": now, class: [upright && "upright", bold && "bold"].filter(Boolean).join(" ") },
    el("button", { type: "button", "data-column": column, onclick: press, title: `Sort by ${text}` }, el("span", {}, text)));
}

function body(row, column, index) {
  const [text, , best] = row.table[index];
  const cell = column.task === null ? null : row.cells[column.task];
  const classes = [column.heading.endsWith("mean") && "mean", best && state.shows === "accuracy" && "best", (text === DASH || column.heading === "published") && "quiet"];
  if (!cell) return el("td", { class: classes.filter(Boolean).join(" ") || null }, text);
  if (cell.state !== "done") {
    return el("td", { class: cell.state, title: cell.why }, cell.state === "failed" ? "failed" : DASH);
  }
  const shown = { accuracy: text, options: options(cell), parameters: count(cell.parameters) }[state.shows];
  const title = `${part().tasks[column.task].label}: ${spread(cell.accuracy)} %, ${options(cell)}, ${count(cell.parameters)} parameters`;
  return el("td", { class: [...classes, state.shows !== "accuracy" && "small"].filter(Boolean).join(" ") || null, title }, shown);
}

function drawTable() {
  const { columns, title, model, weights, groups } = part();
  $("table-title").textContent = title;
  const mean = groups.length > 1 ? "the mean of the group means" : "the mean of the tasks";
  $("table-about").textContent = noted(`${[model, weights].filter(Boolean).join(", ")}. Test accuracy in percent; the overall mean is ${mean}, ± the standard deviation over seeds`) + ".";
  const spans = [];
  for (const { group } of columns) {
    if (spans.length && spans.at(-1)[0] === group) spans.at(-1)[1] += 1;
    else spans.push([group, 1]);
  }
  const left = el("tr", {}, el("td"), ...spans.map(([group, width]) =>
    group ? el("th", { scope: "colgroup", colspan: width, class: "group" }, group) : el("td", { colspan: width })));
  const names = el("tr", {}, heading(-1, "method"), ...columns.map(({ heading: name, task }, index) => heading(index, name, true, task === null)));
  const lines = sorted(rows()).map((row) => el("tr", { "data-row": row.label },
    el("th", { scope: "row" }, el("span", { class: "label" }, swatch(row.style), el("span", { title: row.label }, row.label))),
    ...columns.map((column, index) => body(row, column, index))));
  const none = lines.length ? [] : [el("tr", {}, el("td", { colspan: columns.length + 1, class: "none" }, "No method matches the filter."))];
  const box = $("table-box");
  const scrolled = box.scrollLeft;
  box.replaceChildren(el("table", { class: columns.length > 16 ? "dense" : null }, el("thead", {}, left, names), el("tbody", {}, ...lines, ...none)));
  box.scrollLeft = scrolled;
}

/** Cells without a number, with the reason. */
function drawGaps() {
  const { tasks } = part();
  const of = (row, which) => row.cells.flatMap((cell, index) => (cell.state === which ? [[tasks[index].label, cell.why]] : []));
  const failed = rows().flatMap((row) => of(row, "failed").map(([task, why]) => [row.label, ` on ${task}: ${why}`]));
  const open = rows().map((row) => [row, of(row, "unfinished").map(([task]) => task)]).filter(([, found]) => found.length);
  const missing = open.map(([row, found]) => [row.label, `: ${found.length === tasks.length && found.length > 1 ? "every task" : found.join(", ")}`]);
  const cells = open.reduce((sum, [, found]) => sum + found.length, 0);
  const list = (items, title) => items.length && el("details", { class: "gap", open: items.length <= 8 },
    el("summary", {}, title), el("ul", {}, ...items.map(([label, text]) => el("li", {}, el("b", {}, label), text))));
  const lists = [list(failed, `${plural(failed.length, "cell")} failed`), list(missing, `${plural(cells, "cell")} not finished`)];
  $("gaps").replaceChildren(...lists.filter(Boolean));
}

// Charts.

/** A figure: a caption, and a box for the chart. */
function figure(id, caption, draw) {
  const box = el("div", { class: "plot" });
  $(id).replaceChildren(el("figcaption", {}, caption), box);
  draw(box);
}

/** The height of a chart with the names of so many series in it. */
const tall = (least, series) => Math.max(least, 80 + 16 * series.length);

const nothing = (box, text) => box.replaceChildren(el("p", { class: "none" }, text));

function drawSize() {
  const known = rows().filter((row) => row.accuracy);
  const [sized, bare] = [known.filter((row) => row.parameters), known.filter((row) => !row.parameters)];
  const told = (row) => [row.label, `${count(row.parameters)} parameters`, `${spread(row.accuracy)} %`];
  const heights = known.flatMap(({ accuracy: [mean, deviation] }) => [mean - (deviation ?? 0), mean + (deviation ?? 0)]);
  figure("size", noted("Mean test accuracy against trained parameters"), (box) => {
    if (!known.length) return nothing(box, "No method has finished all of its tasks.");
    const sizes = sized.length ? sized.map((row) => Math.log(row.parameters)) : [Math.log(1e3), Math.log(1e6)];
    const range = padded(sizes, 0.12).map(Math.exp);
    const wide = range[1] / range[0] < 3 ? [range[0] / 2, range[1] * 2] : range;
    return plot(box, {
      label: "Accuracy against parameters", height: tall(320, known), xName: "trained parameters, excluding the head", yName: "accuracy, %",
      x: (pixels) => logarithmic(wide, pixels), xText: compact,
      y: (pixels) => linear(padded(heights, 0.12, 0, 1), pixels), yText: (value) => String(+(100 * value).toFixed(2)),
      series: sized.map((row) => ({ name: row.label, style: row.style,
        points: [{ x: row.parameters, y: row.accuracy[0], spread: row.accuracy[1], tip: told(row) }] })),
      across: bare.map((row) => ({ name: row.label, style: row.style, y: row.accuracy[0], tip: told(row) })),
    });
  });
  const rest = rows().filter((row) => !row.accuracy).map((row) => row.label);
  if (known.length && rest.length) $("size").append(el("p", { class: "rest" }, `Not drawn, since a task has no accuracy: ${rest.join(", ")}.`));
}

function drawRank() {
  const known = rows().filter((row) => row.ranks.length);
  const split = DATA.note ? "test" : "validation";
  figure("rank", noted(`Mean ${split} accuracy of each rank at its best scale`), (box) => {
    if (!known.length) return nothing(box, "No method has several ranks to choose from.");
    const ranks = [...new Set(known.flatMap((row) => row.ranks.map(([rank]) => rank)))].sort((one, other) => one - other);
    const heights = known.flatMap((row) => row.ranks.map(([, accuracy]) => accuracy));
    return plot(box, {
      label: "Accuracy against rank", height: tall(320, known), ends: true, xName: "rank", yName: "accuracy, %",
      x: (pixels) => logarithmic([ranks[0] / 1.2, ranks.at(-1) * 1.2], pixels, ranks),
      y: (pixels) => linear(padded(heights, 0.12, 0, 1), pixels), yText: (value) => String(+(100 * value).toFixed(2)),
      series: known.map((row) => ({ name: row.label, style: row.style,
        points: row.ranks.map(([rank, accuracy, size]) => ({ x: rank, y: accuracy,
          tip: [row.label, `rank ${rank}: ${percent(accuracy)} %`, `${count(size)} parameters`] })) })),
    });
  });
}

function drawGroups() {
  const { groups } = part();
  const root = $("groups");
  root.hidden = groups.length < 2;
  if (root.hidden) return;
  const panels = groups.map((group, index) => [group, rows().filter((row) => row.groups[index]), index]);
  root.replaceChildren(el("figcaption", {}, noted("Mean test accuracy by group, from zero")),
    el("div", { class: "panels" }, ...panels.map(([group]) => el("div", {}, el("h3", {}, group), el("div", { class: "plot" })))));
  const boxes = root.querySelectorAll(".plot");
  for (const [group, known, index] of panels) {
    const items = known.map((row) => ({ name: row.label, style: row.style, value: row.groups[index][0],
      text: percent(row.groups[index][0]), tip: [row.label, `${group}: ${spread(row.groups[index])} %`] }));
    if (items.length) bars(boxes[index], { label: `Accuracy on ${group} tasks`, items, most: 1 });
    else nothing(boxes[index], "No method has finished all tasks of this group.");
  }
}

function drawTraining() {
  const { tasks } = part();
  $("task").replaceChildren(...tasks.map((task, index) => el("option", { value: index, selected: index === state.task }, task.label)));
  const known = rows().filter((row) => row.cells[state.task].loss.length || row.cells[state.task].selected.length);
  $("training-legend").replaceChildren(...known.map((row) => {
    const press = () => { state.off[state.off.has(row.label) ? "delete" : "add"](row.label); drawTraining(); };
    return el("button", { type: "button", "aria-pressed": String(!state.off.has(row.label)), onclick: press }, swatch(row.style), el("span", {}, row.label));
  }));
  $("training-about").textContent = `The loss is the mean over the reported runs; the accuracy is that of the run with the chosen options${DATA.note ? `, ${DATA.note}` : ""}.`;
  const lines = (name) => known.filter((row) => !state.off.has(row.label) && row.cells[state.task][name].length)
    .map((row) => ({ name: row.label, style: row.style, values: row.cells[state.task][name] }));
  const draw = (id, name, caption, yName, text, axis) => figure(id, caption, (box) => {
    const series = lines(name);
    if (!series.length) return nothing(box, "No curve to show.");
    const values = series.flatMap((each) => each.values).filter((value) => value !== null);
    const epochs = Math.max(2, ...series.map((each) => each.values.length));
    return curves(box, { label: caption, height: tall(280, series), series, text, xName: "epoch", yName,
      x: (pixels) => whole(linear([1, epochs], pixels)), y: (pixels) => linear(padded(values, 0.06, 0), pixels), yText: axis });
  });
  const split = DATA.note ? "Test" : "Validation";
  draw("loss", "loss", "Training loss", "loss", (value) => value.toFixed(3), String);
  draw("selected", "selected", `${split} accuracy`, "accuracy, %", (value) => `${percent(value)} %`, (value) => String(+(100 * value).toFixed(2)));
}

function drawCost() {
  const costs = [
    ["step", "Median time of a training step", stepTime], ["peak", "Median peak memory of a training step", bytes],
  ];
  const any = part().rows.some((row) => row.step !== null || row.peak !== null);
  $("cost").hidden = !any;
  if (!any) return;
  $("cost-about").textContent = `Measured on ${DATA.machines.join(", ")}, during the runs.`;
  for (const [id, caption, text] of costs) {
    const known = rows().filter((row) => row[id] !== null);
    figure(id, caption, (box) => {
      if (!known.length) return nothing(box, "No measurements.");
      const items = known.map((row) => ({ name: row.label, style: row.style, value: row[id], text: text(row[id]),
        tip: [row.label, text(row[id]), ...(row.seconds === null ? [] : [`${duration(row.seconds)} per run`])] }));
      return bars(box, { label: caption, items, most: Math.max(...items.map((item) => item.value)) });
    });
  }
}

// Runs.

/** The spec of a run as the original JSON text, fields sorted. */
function specText(run) {
  const fields = { ...DATA.shared, ...run.spec };
  return `{\n${Object.keys(fields).sort().map((name) => ` "${name}": ${fields[name]}`).join(",\n")}\n}`;
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    window.getSelection().selectAllChildren(button.parentElement.querySelector("pre"));
    button.textContent = "Selected";
  }
}

function runDetails(run) {
  const result = run.failure ? "failed" : run.test !== null ? `test ${percent(run.test)} %` : `validation ${percent(run.val)} %`;
  const fill = (event) => {
    const box = event.currentTarget;
    if (!box.open || box.querySelector("pre")) return;
    const text = specText(run);
    const facts = [`run ${run.id}`, `${count(run.parameters)} parameters`, `best epoch ${run.epoch}`, run.failure].filter(Boolean).join(" · ");
    const button = el("button", { type: "button", onclick: () => copy(text, button) }, "Copy");
    box.append(el("div", { class: "spec" }, el("p", {}, facts), el("pre", { tabindex: 0 }, text), button));
  };
  return el("details", { class: "run", ontoggle: fill },
    el("summary", {}, el("span", {}, run.is), el("span", { class: run.failure ? "failed" : "result" }, result)));
}

const haystack = DATA.runs.map((run) => `${run.id} ${run.is} ${Object.values(run.spec).join(" ")} ${run.failure ? `failed ${run.failure}` : ""}`.toLowerCase());

function drawRuns(more = false) {
  const words = terms($("find").value);
  const found = DATA.runs.filter((run, index) => words.every((word) => haystack[index].includes(word)));
  const from = more ? state.listed : 0;
  state.listed = Math.min(found.length, from + BATCH);
  const fresh = found.slice(from, state.listed).map(runDetails);
  if (more) $("run-list").append(...fresh);
  else $("run-list").replaceChildren(...(fresh.length ? fresh : [el("p", { class: "none" }, "No run matches the search.")]));
  const failed = DATA.runs.filter((run) => run.failure).length;
  $("runs-about").textContent = `${plural(found.length, "run")}${words.length ? ` of ${DATA.runs.length.toLocaleString("en-US")}` : ""}, including those that only choose options${failed ? `; ${failed} failed` : ""}. The numbers of a run depend only on its spec, the data and the weights.`;
  $("more").hidden = state.listed >= found.length;
  $("more").textContent = `Show ${Math.min(BATCH, found.length - state.listed)} more of ${(found.length - state.listed).toLocaleString("en-US")}`;
}

// Redraw.

function drawCharts() {
  drawSize();
  drawRank();
  drawGroups();
  drawTraining();
  drawCost();
}

function drawAll() {
  tip.hide();
  $("count").textContent = `${rows().length} of ${plural(part().rows.length, "method")}`;
  drawTable();
  drawGaps();
  drawCharts();
}

drawHead();
drawBar();
drawAll();
drawRuns();
$("find").addEventListener("input", () => drawRuns());
$("more").addEventListener("click", () => drawRuns(true));

let drawnAt = document.documentElement.clientWidth;
new ResizeObserver(() => {
  const width = document.documentElement.clientWidth;
  if (width !== drawnAt) {
    drawnAt = width;
    drawCharts();
  }
}).observe(document.documentElement);
