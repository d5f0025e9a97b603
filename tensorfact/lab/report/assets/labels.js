// Names beside the points and lines that they belong to, in place of a legend; placed as in the pictures (lab/plots).

const LETTERS = 12; // the size of the font in charts, in pixels
const HIGH = 15; // the height of a name
const FAR = 14; // a name that is farther away from its point gets a line to it
const AROUND = [-1, -0.5, 0, 0.5, 1].flatMap((a) => [-1, -0.5, 0, 0.5, 1].map((b) => [a, b]))
  .filter(([a, b]) => Math.max(Math.abs(a), Math.abs(b)) === 1);
const DISTANCES = [8, 13, 21, 31, 43, 57, 73];
const COST = { outside: 1000, label: 200, point: 4, pixel: 0.5 };

const ruler = document.createElement("canvas").getContext("2d");

function textWidth(text) {
  ruler.font = `${LETTERS}px ${getComputedStyle(document.body).fontFamily}`;
  return ruler.measureText(text).width;
}

/** A name, cut where it is wider than the room. */
function fitted(name, room) {
  const letters = Array.from(name);
  if (textWidth(name) <= room) return name;
  while (letters.length > 1 && textWidth(`${letters.join("")}…`) > room) letters.pop();
  return `${letters.join("")}…`;
}

/** The width of names to the right of a chart: that of the longest, but at most a third of the chart. */
function roomFor(box, names) {
  return Math.min(Math.max(0, ...names.map(textWidth)), Math.max(260, box.clientWidth) / 3) + 10;
}

/** The positions nearest to those wanted (least squares) that keep a gap, in their order. */
function apart(wanted, gap, low, high) {
  const last = Math.max(wanted.length - 1, 1);
  const step = Math.min(gap, (high - low) / last);
  const order = wanted.map((_, at) => at).sort((one, other) => wanted[one] - wanted[other]);
  const blocks = [];
  order.forEach((at, rank) => {
    let [mean, count] = [wanted[at] - rank * step, 1];
    while (blocks.length && blocks.at(-1)[0] >= mean) {
      const [other, more] = blocks.pop();
      [mean, count] = [(mean * count + other * more) / (count + more), count + more];
    }
    blocks.push([mean, count]);
  });
  const means = blocks.flatMap(([mean, count]) => Array(count).fill(mean));
  const found = [];
  order.forEach((at, rank) => { found[at] = Math.min(Math.max(means[rank], low), high - last * step) + rank * step; });
  return found;
}

/** Points along a line, a few pixels apart. */
function along(places) {
  return places.flatMap(([x, y], at) => {
    const [toX, toY] = places[Math.min(at + 1, places.length - 1)];
    const count = Math.max(1, Math.floor(Math.hypot(toX - x, toY - y) / 4));
    return Array.from({ length: count }, (_, step) => [x + ((toX - x) * step) / count, y + ((toY - y) * step) / count]);
  });
}

const onMarker = ([x, y]) => [-4, 0, 4].flatMap((a) => [-4, 0, 4].map((b) => [x + a, y + b]));

/** Places for names near their points: off what is drawn, and off each other where there is room. */
function beside(labels, drawn, taken, frame) {
  const choices = labels.map(({ x, y, width }) => DISTANCES.flatMap((far) => AROUND.map(([a, b]) => {
    const [left, top] = [x + a * (width / 2 + far) - width / 2, y + b * (HIGH / 2 + far) - HIGH / 2];
    const box = { left, top, right: left + width, bottom: top + HIGH };
    const outside = left < frame.left || top < frame.top || box.right > frame.right || box.bottom > frame.bottom;
    const on = drawn.filter(([px, py]) => px > left && px < box.right && py > top && py < box.bottom).length;
    return { box, cost: COST.outside * outside + COST.point * on + COST.pixel * far + 1 - a + Math.abs(b) + b / 10 };
  })));
  const overlap = (one, other) => {
    const [wide, tall] = [Math.min(one.right, other.right) - Math.max(one.left, other.left),
      Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top)];
    return wide > 0 && tall > 0 ? COST.label * (1 + (wide * tall) / (HIGH * (one.right - one.left))) : 0;
  };
  const found = [];
  for (let round = 0; round < 4; round += 1) {
    choices.forEach((boxes, at) => {
      const others = [...taken, ...found.filter((each, other) => each && other !== at)];
      const cost = (each) => each.cost + others.reduce((sum, other) => sum + overlap(each.box, other), 0);
      found[at] = boxes.reduce((best, each) => (cost(each) < cost(best) ? each : best)).box;
    });
  }
  return found;
}

/** Write the names of series: in a column where several lines end, beside their points elsewhere, on lines across. */
function nameDirectly({ root, edge, width, height }, labels, drawn, room = 0) {
  const frame = { left: edge.left, top: edge.top, right: width - 4, bottom: height - edge.bottom };
  const most = room ? room - 6 : (frame.right - frame.left) / 2;
  for (const label of labels) {
    label.text = fitted(label.name, most);
    label.width = textWidth(label.text) + 4;
    if (label.across) label.x = width - edge.right - label.width / 2;
  }
  const last = Math.max(...labels.map(({ x }) => x));
  const ends = labels.filter(({ x }) => room && x > last - 2);
  const rest = labels.filter((label) => !ends.includes(label));
  const centres = apart(ends.map(({ y }) => y), HIGH, frame.top + HIGH / 2, frame.bottom - HIGH / 2);
  const column = ends.map(({ x, width: wide }, at) =>
    ({ left: x + 8, right: x + 8 + wide, top: centres[at] - HIGH / 2, bottom: centres[at] + HIGH / 2 }));
  const boxes = [...column, ...beside(rest, drawn, column, frame)];
  [...ends, ...rest].forEach((label, at) => {
    const box = boxes[at];
    const [x, y] = [Math.min(Math.max(label.x, box.left), box.right), Math.min(Math.max(label.y, box.top), box.bottom)];
    const light = (on) => () => {
      for (const each of root.querySelectorAll(".series")) each.classList.toggle("dim", on && each.dataset.row !== label.name);
    };
    const far = !label.across && Math.hypot(x - label.x, y - label.y) > FAR;
    label.group.append(...(far ? [svg("line", { class: "leader", x1: label.x, y1: label.y, x2: x, y2: y })] : []),
      svg("text", { class: "called", x: box.left + 2, y: box.top + HIGH - 4, onpointerenter: light(true), onpointerleave: light(false) },
        svg("title", {}, label.name), label.text));
  });
}
