// Draws what ArtiMuse's nodes found on the nodes themselves: the score, how sure the model is, the
// distribution over its 101 score tokens, and what it says on each attribute.
//
// Colours come from the theme's own variables. Texts are a model's or a stranger's: they are only
// ever set as textContent.

import { app } from "../../scripts/app.js";

const NODES = new Set([
  "ArtiMuseScore",
  "ArtiMuseCritique",
  "ArtiMuseSelect",
  "ArtiMuseBestOfN",
]);
const SVG = "http://www.w3.org/2000/svg";
const MOST_ROWS = 200;
const MIN_WIDTH = 300; // pixels, as are the heights
const BASE_HEIGHT = { badge: 48, plot: 86, row: 20, text: 260 };
const MOST_ROWS_HEIGHT = 6 * BASE_HEIGHT.row;

const STYLE = `
.artimuse { display: flex; flex-direction: column; gap: 6px; box-sizing: border-box; width: 100%;
  height: 100%; padding: 6px 8px; overflow: hidden; font: 12px/1.4 sans-serif;
  color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222);
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 6px; }
.artimuse .badge { display: flex; align-items: baseline; gap: 8px; flex: none; }
.artimuse .score { font-size: 26px; font-weight: 700; line-height: 1.2; }
.artimuse .dim { color: var(--descrip-text, #999); }
.artimuse .figure { flex: none; }
.artimuse svg { display: block; width: 100%; height: 64px; }
.artimuse .bars { fill: #4a90c2; }
.artimuse .mark { stroke: var(--input-text, #ddd); stroke-dasharray: 3 2;
  vector-effect: non-scaling-stroke; }
.artimuse .axis { display: flex; justify-content: space-between; font-size: 10px; }
.artimuse .rows { flex: 0 1 auto; min-height: 0; overflow-y: auto; }
.artimuse .row { display: grid; grid-template-columns: 40px 1fr 92px; gap: 6px; height: 20px;
  align-items: center; width: 100%; padding: 0 2px; border: 0; border-radius: 3px; cursor: pointer;
  color: inherit; background: none; font: inherit; text-align: left; }
.artimuse .row:hover { background: var(--content-hover-bg, #8883); }
.artimuse .row[aria-pressed="true"] { outline: 1px solid var(--descrip-text, #999); }
.artimuse .row .track { height: 6px; border-radius: 3px; background: var(--border-color, #4e4e4e); }
.artimuse .row .fill { height: 100%; border-radius: 3px; background: #4a90c2; }
.artimuse .row.dropped { opacity: .55; }
.artimuse .row .value { text-align: right; font-variant-numeric: tabular-nums; }
.artimuse .texts { flex: 1 1 auto; min-height: 0; overflow-y: auto; }
.artimuse summary { cursor: pointer; font-weight: 600; }
.artimuse details p { margin: 2px 0 6px; white-space: pre-wrap; overflow-wrap: anywhere;
  user-select: text; }
`;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function svg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// 101 probabilities, of the scores 0 to 100, and the expected score → bars with a line at it.
function drawDistribution(probabilities, score) {
  const most = Math.max(...probabilities);
  const width = 3 * probabilities.length;
  const plot = svg("svg", { viewBox: `0 0 ${width} 64`, preserveAspectRatio: "none", role: "img" });
  plot.setAttribute("aria-label", `distribution of the score, expected ${score.toFixed(1)}`);
  const bars = probabilities.map((p, i) => `M${3 * i} 64v${(-62 * p) / most}h2.4V64z`);
  plot.append(svg("path", { class: "bars", d: bars.join("") }));
  const x = (score / 100) * (width - 3) + 1.2;
  plot.append(svg("line", { class: "mark", x1: x, x2: x, y1: 0, y2: 64 }));
  const axis = make("div", "axis dim");
  for (const tick of [0, 25, 50, 75, 100]) axis.append(make("span", "", String(tick)));
  const figure = make("div", "figure");
  figure.append(plot, axis);
  return figure;
}

function drawBadge(output, index) {
  const badge = make("div", "badge");
  badge.append(make("span", "score", output.score[index].toFixed(1)));
  const spread = output.spread?.[index];
  const words = [];
  if (spread !== undefined) words.push(`± ${spread.toFixed(1)}`);
  if (output.kept) {
    words.push(...(output.text ?? []));
  } else if (output.score.length > 1) {
    const mean = output.score.reduce((a, b) => a + b) / output.score.length;
    words.push(`#${index} of ${output.score.length}, mean ${mean.toFixed(1)}`);
  }
  badge.append(make("span", "dim", words.join(" · ")));
  return badge;
}

function drawRow(output, index, shown, choose) {
  const row = make("button", "row");
  row.type = "button";
  row.setAttribute("aria-pressed", String(index === shown));
  if (output.kept && !output.kept.includes(index)) row.classList.add("dropped");
  const track = make("div", "track");
  const fill = make("div", "fill");
  fill.style.width = `${Math.max(0, Math.min(100, output.score[index]))}%`;
  track.append(fill);
  const spread = output.spread?.[index];
  const value = output.score[index].toFixed(1) + (spread === undefined ? "" : ` ± ${spread.toFixed(1)}`);
  row.append(make("span", "dim", `#${index}`), track, make("span", "value", value));
  row.addEventListener("click", () => choose(index));
  return row;
}

function drawTexts(critique) {
  const texts = make("div", "texts");
  for (const [name, text] of Object.entries(critique)) {
    const details = make("details");
    details.open = true;
    details.append(make("summary", "", name), make("p", "", text));
    texts.append(details);
  }
  return texts;
}

function draw(panel, output, shown) {
  const rows = make("div", "rows");
  const scroll = panel.querySelector(".rows")?.scrollTop ?? 0;
  const order = output.score.map((_, i) => i).sort((a, b) => output.score[b] - output.score[a]);
  if (order.length > 1) {
    for (const index of order.slice(0, MOST_ROWS)) {
      rows.append(drawRow(output, index, shown, (chosen) => draw(panel, output, chosen)));
    }
    if (order.length > MOST_ROWS) rows.append(make("div", "dim", `… ${order.length - MOST_ROWS} more`));
  }
  const parts = [drawBadge(output, shown)];
  const distribution = output.distribution?.[shown];
  if (distribution?.length) parts.push(drawDistribution(distribution, output.score[shown]));
  if (rows.childElementCount) parts.push(rows);
  if (output.critique?.[shown]) parts.push(drawTexts(output.critique[shown]));
  panel.replaceChildren(...parts);
  rows.scrollTop = scroll;
}

function heightOf(output) {
  let height = BASE_HEIGHT.badge;
  if (output.distribution?.some((row) => row.length)) height += BASE_HEIGHT.plot;
  if (output.score.length > 1) {
    height += Math.min(MOST_ROWS_HEIGHT, output.score.length * BASE_HEIGHT.row) + 6;
  }
  return height + (output.critique ? BASE_HEIGHT.text : 0);
}

function show(node, output) {
  if (!output?.score?.length) return;
  let widget = node.widgets?.find((candidate) => candidate.name === "artimuse");
  if (!widget) {
    const panel = make("div", "artimuse");
    widget = node.addDOMWidget("artimuse", "artimuse", panel, {
      serialize: false, // results belong to a run, not to the workflow
      hideOnZoom: false,
      getMinHeight: () => widget.artimuseHeight ?? BASE_HEIGHT.badge,
    });
    widget.serialize = false;
  }
  widget.artimuseHeight = heightOf(output);
  const best = output.score.indexOf(Math.max(...output.score));
  draw(widget.element, output, best);
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width, MIN_WIDTH), Math.max(node.size[1], height)]);
  node.graph?.setDirtyCanvas(true, true);
}

app.registerExtension({
  name: "ArtiMuse.Results",
  async setup() {
    const style = make("style");
    style.textContent = STYLE;
    document.head.append(style);
  },
  async beforeRegisterNodeDef(nodeType, nodeData) {
    if (!NODES.has(nodeData.name)) return;
    const onExecuted = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      show(this, output);
    };
  },
});
