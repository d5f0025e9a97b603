"use strict";
// SVG charts. Text is inserted as text nodes only, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

function grow(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes = {}, ...children) => grow(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => grow(document.createElementNS(SVG, tag), attributes, children);

// Shapes by the letters of matplotlib; DATA has their order, the colours and the dashes, which the pictures share.
const SHAPES = {
  o: (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
  s: (r) => polygon([[-1, -1], [1, -1], [1, 1], [-1, 1]], 0.9 * r),
  "^": (r) => polygon([[0, -1.2], [1.15, 0.85], [-1.15, 0.85]], r),
  D: (r) => polygon([[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]], r),
  v: (r) => polygon([[0, 1.2], [1.15, -0.85], [-1.15, -0.85]], r),
  P: (r) => polygon(PLUS, 1.15 * r),
  X: (r) => polygon(PLUS.map(([x, y]) => [0.707 * (x - y), 0.707 * (x + y)]), 1.15 * r),
};
const PLUS = [[-0.38, -1], [0.38, -1], [0.38, -0.38], [1, -0.38], [1, 0.38], [0.38, 0.38],
  [0.38, 1], [-0.38, 1], [-0.38, 0.38], [-1, 0.38], [-1, -0.38], [-0.38, -0.38]];

function polygon(points, r) {
  return `M${points.map(([x, y]) => `${(x * r).toFixed(2)},${(y * r).toFixed(2)}`).join("L")}Z`;
}

const DASHES = { "-": null, "--": "7 4", "-.": "8 3 2 3", ":": "2 3" };

const colour = (style) => `c${style % DATA.look.colours}`;
const dashes = (style) => DASHES[DATA.look.lines[Math.floor(style / DATA.look.colours) % DATA.look.lines.length]];
const shape = (style) => SHAPES[DATA.look.markers[style % DATA.look.markers.length]];

function marker(style, r, x = 0, y = 0) {
  return svg("path", { d: shape(style)(r), transform: `translate(${x} ${y})`, class: "mark" });
}

function swatch(style) {
  return svg("svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", class: `swatch ${colour(style)}`, "aria-hidden": "true" },
    marker(style, 4.6));
}

// Tooltips: shown on hover, touch and keyboard focus.

const tip = {
  box: null,
  show(target, [title, ...lines]) {
    tip.box ??= document.getElementById("tip");
    tip.box.replaceChildren(el("strong", {}, title), ...lines.map((line) => el("span", {}, line)));
    tip.box.hidden = false;
    const at = target.getBoundingClientRect();
    const own = tip.box.getBoundingClientRect();
    const room = document.documentElement.clientWidth - own.width - 8;
    const left = Math.max(8, Math.min(at.left + at.width / 2 - own.width / 2, room));
    const above = at.top - own.height - 10;
    tip.box.style.left = `${left + window.scrollX}px`;
    tip.box.style.top = `${(above > 4 ? above : at.bottom + 10) + window.scrollY}px`;
  },
  hide() {
    if (tip.box) tip.box.hidden = true;
  },
};
document.addEventListener("keydown", (event) => event.key === "Escape" && tip.hide());

/** Attributes of an element with a tooltip. */
function tells(lines) {
  const show = (event) => tip.show(event.currentTarget, lines);
  return {
    tabindex: 0, role: "img", "aria-label": lines.join(", "),
    onpointerenter: show, onfocus: show, onpointerleave: tip.hide, onblur: tip.hide,
  };
}

// Scales map numbers to pixels and have ticks.

function niceTicks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((each) => each * power >= rough * 0.999);
  const ticks = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + 1e-9 * step; at += 1) ticks.push(Number((at * step).toPrecision(12)));
  return ticks;
}

function linear([low, high], [from, to], count = 5) {
  const at = (value) => from + ((value - low) / (high - low || 1)) * (to - from);
  return { at, ticks: niceTicks(low, high, count) };
}

const whole = (scale) => ({ ...scale, ticks: scale.ticks.filter(Number.isInteger) });

function logarithmic([low, high], [from, to], ticks) {
  const line = linear([Math.log(low), Math.log(high)], [from, to]);
  const tens = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const each of [1, 2, 5]) tens.push(each * 10 ** power);
  }
  const inside = tens.filter((value) => value >= low && value <= high);
  const most = Math.abs(to - from) / 56;
  const powers = inside.filter((value) => Number.isInteger(Math.log10(value)));
  return { at: (value) => line.at(Math.log(value)), ticks: ticks ?? (inside.length <= most || powers.length < 2 ? inside : powers) };
}

function padded(values, share, floor = -Infinity, ceiling = Infinity) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = (high - low || Math.abs(high) || 1) * share;
  return [Math.max(floor, low - pad), Math.min(ceiling, high + pad)];
}

const compact = (value) =>
  value >= 1e6 ? `${+(value / 1e6).toPrecision(3)} M` : value >= 1e3 ? `${+(value / 1e3).toPrecision(3)} k` : String(+value.toPrecision(3));

/** An SVG with axes. `x` and `y` make scales from pixel ranges. Returns the root, the scales and the edges. */
function axes(box, { label, height, x, y, xName, yName, xText = String, yText = String, room = 0 }) {
  const width = Math.max(260, box.clientWidth);
  const edge = { left: 46, right: 14 + room, top: 12, bottom: 42 };
  const [xs, ys] = [x([edge.left, width - edge.right]), y([height - edge.bottom, edge.top])];
  const root = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": label });
  for (const tick of ys.ticks) {
    root.append(svg("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: ys.at(tick), y2: ys.at(tick) }));
    root.append(svg("text", { class: "tick", x: edge.left - 8, y: ys.at(tick) + 4, "text-anchor": "end" }, yText(tick)));
  }
  for (const tick of xs.ticks) {
    root.append(svg("line", { class: "grid", x1: xs.at(tick), x2: xs.at(tick), y1: edge.top, y2: height - edge.bottom }));
    root.append(svg("text", { class: "tick", x: xs.at(tick), y: height - edge.bottom + 18, "text-anchor": "middle" }, xText(tick)));
  }
  const middle = (edge.top + height - edge.bottom) / 2;
  root.append(svg("text", { class: "axis", x: (edge.left + width - edge.right) / 2, y: height - 5, "text-anchor": "middle" }, xName));
  root.append(svg("text", { class: "axis", transform: `translate(11 ${middle}) rotate(-90)`, "text-anchor": "middle" }, yName));
  box.replaceChildren(root);
  return { root, xs, ys, edge, width, height };
}

/** Points with error bars, or lines with names at their ends (`ends`); the entries of `across` are horizontal lines. */
function plot(box, { series, across = [], ends = false, ...options }) {
  const room = ends ? roomFor(box, series.map(({ name }) => name)) : 0;
  const canvas = axes(box, { ...options, room });
  const { root, xs, ys, edge, width } = canvas;
  const [labels, drawn] = [[], []];
  for (const { name, style, y, tip: lines } of across) {
    const at = { x1: edge.left, x2: width - edge.right, y1: ys.at(y), y2: ys.at(y) };
    const group = svg("g", { class: `series ${colour(style)}`, "data-row": name, ...tells(lines) },
      svg("line", { ...at, class: "hit" }), svg("line", { ...at, class: "across" }));
    drawn.push(...along([[at.x1, at.y1], [at.x2, at.y2]]));
    labels.push({ name, group, y: at.y1, across: true });
    root.append(group);
  }
  for (const { name, style, points } of series) {
    const group = svg("g", { class: `series ${colour(style)}`, "data-row": name });
    const places = points.map((point) => [xs.at(point.x), ys.at(point.y)]);
    drawn.push(...places.flatMap(onMarker), ...(ends ? along(places) : []));
    if (ends) group.append(svg("path", { class: "line", "stroke-dasharray": dashes(style), d: `M${places.map((place) => place.join(",")).join("L")}` }));
    points.forEach((point, index) => {
      const [px, py] = places[index];
      const bar = [];
      if (point.spread) {
        const [low, high] = [ys.at(point.y - point.spread), ys.at(point.y + point.spread)];
        drawn.push(...along([[px, low], [px, high]]));
        bar.push(svg("path", { class: "error", d: `M${px},${low}V${high}M${px - 4},${low}h8M${px - 4},${high}h8` }));
      }
      group.append(svg("g", { class: "point", ...tells(point.tip) }, ...bar,
        svg("circle", { class: "hit", cx: px, cy: py, r: 12 }), marker(style, 5, px, py)));
    });
    labels.push({ name, group, x: places.at(-1)[0], y: places.at(-1)[1] });
    root.append(group);
  }
  if (labels.length) nameDirectly(canvas, labels, drawn, room);
  return canvas;
}

/** Horizontal bars from zero, with the name on the left and the number on the right. */
function bars(box, { label, items, most }) {
  const width = Math.max(220, box.clientWidth);
  const [step, thick] = [26, 14];
  const letters = Math.max(...items.map(({ name }) => name.length), 1);
  const names = Math.min(letters * 6.6 + 24, 0.42 * width, 210);
  const numbers = Math.max(...items.map(({ text }) => text.length), 1) * 6.8 + 10;
  const size = linear([0, most], [0, width - names - numbers]);
  const height = items.length * step + 4;
  const root = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": label });
  items.forEach(({ name, style, value, text, tip: lines }, index) => {
    const y = index * step + step / 2 + 2;
    const fits = Math.floor((names - 22) / 6.6);
    const long = Math.max(size.at(value), 1);
    root.append(svg("g", { class: `series level ${colour(style)}`, "data-row": name, ...tells(lines) },
      svg("rect", { class: "hit", x: 0, y: y - step / 2, width, height: step }),
      marker(style, 4.4, 7, y),
      svg("text", { class: "name", x: 18, y: y + 4 }, name.length > fits ? `${name.slice(0, fits - 1)}…` : name),
      svg("rect", { class: "fill", x: names, y: y - thick / 2, width: long, height: thick, rx: 2 }),
      svg("text", { class: "number", x: names + long + 6, y: y + 4 }, text)));
  });
  box.replaceChildren(root);
}

/** Lines over epochs; the pointer or the arrow keys show the values of all lines at one epoch. */
function curves(box, { series, text, ...options }) {
  const room = roomFor(box, series.map(({ name }) => name));
  const canvas = axes(box, { ...options, room });
  const { root, xs, ys, edge, width, height } = canvas;
  const [labels, drawn] = [[], []];
  for (const { name, style, values } of series) {
    const places = values.flatMap((value, epoch) => (value === null ? [] : [[xs.at(epoch + 1), ys.at(value)]]));
    const group = svg("g", { class: `series ${colour(style)}`, "data-row": name },
      svg("path", { class: "line", "stroke-dasharray": dashes(style), d: `M${places.map((place) => place.map((each) => each.toFixed(1)).join(",")).join("L")}` }),
      places.length ? marker(style, 4, ...places.at(-1)) : null);
    drawn.push(...along(places));
    if (places.length) labels.push({ name, group, x: places.at(-1)[0], y: places.at(-1)[1] });
    root.append(group);
  }
  const epochs = Math.max(...series.map(({ values }) => values.length));
  const cursor = svg("line", { class: "cursor", y1: edge.top, y2: height - edge.bottom, visibility: "hidden" });
  let epoch = epochs;
  const read = (wanted) => {
    epoch = Math.min(epochs, Math.max(1, wanted));
    const found = series.filter(({ values }) => (values[epoch - 1] ?? null) !== null)
      .sort((one, other) => other.values[epoch - 1] - one.values[epoch - 1]);
    grow(cursor, { x1: xs.at(epoch), x2: xs.at(epoch), visibility: "visible" }, []);
    tip.show(cursor, [`epoch ${epoch}`, ...found.map(({ name, values }) => `${text(values[epoch - 1])}  ${name}`)]);
  };
  const leave = () => { cursor.setAttribute("visibility", "hidden"); tip.hide(); };
  if (labels.length) nameDirectly(canvas, labels, drawn, room);
  root.append(cursor, svg("rect", {
    class: "hit", x: edge.left, y: edge.top, width: width - edge.left - edge.right, height: height - edge.top - edge.bottom,
    tabindex: 0, role: "img", "aria-label": `${options.label}; arrow keys move through the epochs`,
    onpointermove(event) {
      const x = event.clientX - root.getBoundingClientRect().left;
      read(1 + Math.round(((x - edge.left) / (width - edge.left - edge.right)) * (epochs - 1)));
    },
    onfocus: () => read(epoch), onpointerleave: leave, onblur: leave,
    onkeydown(event) {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) { event.preventDefault(); read(epoch + step); }
    },
  }));
}
