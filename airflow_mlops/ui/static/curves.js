// Metrics by epoch, as MLflow keeps them: a chart a metric, a colour a version. Drawn by uPlot.
import { $, call, make } from "./page.js";

const holder = $("#curves");
const HEIGHT = 190;
const COLOURS = ["--blue", "--second"];
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const number = (value) => (value == null ? "" : Number(value.toPrecision(4)).toString());

// "val_loss" is drawn with "loss": metric → the lines of its chart. The loss comes first, what was not validated last.
const grouped = (curves, versions) => {
  const metrics = [...new Set(Object.keys(curves).map((name) => name.replace(/^val_/, "")))];
  const rank = (metric) => (metric === "loss" ? 0 : `val_${metric}` in curves ? 1 : 2);
  return metrics.sort((a, b) => rank(a) - rank(b)).map((metric) => {
    const both = metric in curves && `val_${metric}` in curves;
    const lines = versions.flatMap((version) => [
      { version, split: both ? "train" : "", values: curves[metric]?.[version] },
      { version, split: "validation", values: curves[`val_${metric}`]?.[version] },
    ]);
    return [metric, lines.filter((line) => line.values)];
  });
};

const charts = [];
const draw = (metric, lines, versions) => {
  const epochs = [...new Set(lines.flatMap((line) => Object.keys(line.values).map(Number)))].sort((a, b) => a - b);
  const name = (line) => `version ${line.version}${line.split ? `, ${line.split}` : ""}`;
  const last = (line) => line.values[Math.max(...Object.keys(line.values).map(Number))];
  const axis = { stroke: style("--quiet"), grid: { stroke: style("--edge"), width: 1 }, ticks: { show: false }, font: `12px ${style("--font")}` };
  const told = lines.map((line) => `${name(line)}: ${number(last(line))} after ${Object.keys(line.values).length} epochs`);
  const box = make("div", { role: "img", ariaLabel: `${metric} by epoch. ${told.join("; ")}` });
  charts.push(new window.uPlot({
    width: holder.querySelector(".features").firstElementChild?.clientWidth || 340,
    height: HEIGHT,
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: "epochs" } },
    scales: { x: { time: false } },
    axes: [
      { ...axis, size: 28, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] },
      { ...axis, values: (chart, splits) => splits.map(number), size: (chart, values) => 14 + 7 * Math.max(0, ...(values || []).map((value) => value.length)) },
    ],
    series: [
      { label: "epoch", value: (chart, value) => (value == null ? "last" : String(value)) },
      ...lines.map((line) => ({
        label: name(line),
        stroke: style(COLOURS[versions.indexOf(line.version)]),
        dash: line.split === "train" ? [5, 4] : [],
        width: 1.5,
        spanGaps: true,
        points: { show: epochs.length < 3 },
        value: (chart, value) => number(value ?? last(line)),
      })),
    ],
  }, [epochs, ...lines.map((line) => epochs.map((epoch) => line.values[epoch] ?? null))], box));
  return make("div", {}, make("h3", { textContent: metric }), box);
};

const show = ({ curves, problems }) => {
  const versions = holder.dataset.versions.split(" ");
  for (const chart of charts.splice(0)) chart.destroy();
  const notes = Object.entries(problems).map(([version, words]) =>
    make("p", { className: "quiet", textContent: versions.length > 1 ? `Version ${version}: ${words}` : words }));
  const grid = make("div", { className: "features" }, make("div"));
  const both = Object.keys(curves).some((name) => name.startsWith("val_"));
  const key = make("p", { className: "quiet small", textContent: "Solid: on the validation split. Dashed: on the train split." });
  holder.replaceChildren(...notes, ...(both ? [key] : []), grid);
  const drawn = grouped(curves, versions).map(([metric, lines]) => draw(metric, lines, versions));
  grid.replaceChildren(...drawn);
};

if (holder) {
  call(holder.dataset.load).then((told) => {
    const again = () => show(told);
    again();
    // Colours and widths are those of the moment in which they were drawn.
    new MutationObserver(again).observe(document.documentElement, { attributeFilter: ["class"] });
    let waits;
    addEventListener("resize", () => { clearTimeout(waits); waits = setTimeout(again, 150); });
  }).catch((error) => holder.replaceChildren(make("p", { className: "quiet", textContent: error.message })));
}
