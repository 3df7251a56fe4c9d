// Draws each chart when it comes near the screen, and makes the table of runs.
const read = (id) => JSON.parse(document.getElementById(id).textContent);

function open(link) {
  const anchor = document.createElement("a");
  anchor.href = link;
  anchor.target = "_blank";
  anchor.rel = "noopener";
  anchor.click();
}

// Plotly is a few megabytes: it is read when the first chart is drawn, so that the text is there at once.
function readPlotly() {
  if (window.Plotly) return;
  const script = document.createElement("script");
  script.textContent = document.getElementById("plotly").textContent;
  document.head.append(script);
}

async function draw(element) {
  if (element.dataset.drawn) return;
  element.dataset.drawn = "yes";
  readPlotly();
  const chart = read(element.dataset.chart);
  for (const trace of chart.data) {
    if (trace.meta?.lengths) trace.text = trace.meta.lengths.flatMap((n, i) => Array(n).fill(trace.meta.labels[i]));
  }
  await Plotly.newPlot(element, chart.data, chart.layout, {
    responsive: true,
    displaylogo: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  });
  element.on("plotly_click", (event) => {
    const data = event.points[0].customdata;
    if (Array.isArray(data)) open(data[1]);
  });
}

const charts = document.querySelectorAll(".chart");
const watcher = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
    watcher.unobserve(entry.target);
    draw(entry.target);
  }),
  { rootMargin: "600px" },
);
charts.forEach((chart) => watcher.observe(chart));
window.addEventListener("beforeprint", () => charts.forEach(draw));

const escaped = (text) => {
  const holder = document.createElement("span");
  holder.textContent = text;
  return holder.innerHTML.replaceAll('"', "&quot;");
};

function shown(value) {
  if (value === null) return "";
  if (typeof value !== "number") return escaped(String(value));
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(4)));
}

const table = read("run-data");
const source = document.getElementById("table-module").textContent;
const { default: DataTable } = await import(`data:text/javascript;base64,${source}`);
const link = (run) => run.link === "" ? escaped(run.name) : `<a href="${escaped(run.link)}" target="_blank" rel="noopener">${escaped(run.name)}</a>`;
new DataTable("#run-table", {
  data: table.rows,
  columns: table.columns.map((_, i) => ({
    render: i === 0
      ? (run, type) => (type === "display" ? link(run) : run.name)
      : (value, type) => (type === "display" ? shown(value) : value),
  })),
  columnControl: [["search"]],
  order: [],
  deferRender: true,
  scrollX: true,
  pageLength: 25,
  lengthMenu: [10, 25, 100, { label: "all", value: -1 }],
  layout: { topStart: "search", topEnd: "pageLength" },
  fixedColumns: { start: 1 },
});
document.documentElement.dataset.ready = "yes";
