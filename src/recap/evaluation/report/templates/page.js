"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const sides = [["baseline", "baseline"], ["model", "this model"]]; // the model is drawn over the baseline
  let task = document.querySelector("select.tasks option")?.value ?? "";

  // Rows of each chart for a task. Field names are fixed; names of tasks and features are only values.
  const each = (part, use) => sides.flatMap(([side, series]) => (part[side] ? use(part[side], series) ?? [] : []));
  const points = (xs, ys, more) => xs.map((x, i) => ({ x, y: ys[i], order: i, ...more })).filter((row) => row.y !== null);
  const steps = (names, bins) => // a step for each bin, the last one up to its end
    (bins ? names.flatMap((series) => points(bins.edges, [...bins[series], bins[series].at(-1)], { series })) : []);
  const dotted = (points) => points.map((row) => ({ ...row, dot: true }));
  const sparse = (points) => (points.length > 5 ? points : dotted(points)); // a line of few points is hard to see
  const evaluated = (name, part) => (run, series) => {
    const found = run.evaluations?.tasks[task]?.[name];
    return found && dotted(points(run.evaluations.steps, found, { series, ...(part && { part }) }));
  };
  const rows = {
    loss: () => each(data.training, (run, series) => [
      ...(run.losses?.tasks[task] ? sparse(points(run.losses.steps, run.losses.tasks[task], { series, part: "training" })) : []),
      ...(evaluated("log_loss", "validation")(run, series) ?? []),
    ]),
    auc: () => each(data.training, (run, series) => evaluated("auc")(run, series) ?? evaluated("xauc")(run, series)),
    rate: () => {
      const rates = data.training.model?.rates;
      const of = (name, series) => (rates && name in rates.names ? sparse(points(rates.steps, rates.series[rates.names[name]], { series })) : []);
      return [...of(`towers/${task}`, "tower"), ...of("backbone", "backbone")];
    },
    roc: () => each(data.curves, (tasks, series) => tasks[task]?.roc && points(tasks[task].roc.x, tasks[task].roc.y, { series })),
    pr: () => each(data.curves, (tasks, series) => tasks[task]?.pr && points(tasks[task].pr.x, tasks[task].pr.y, { series })),
    reliability: () => each(data.curves, (tasks, series) => Object.entries(tasks[task]?.reliability ?? {}).flatMap(([part, bins]) =>
      bins.prediction.map((x, i) => ({ x, y: bins.rate[i], low: Math.max(bins.low[i], bins.rate[i] / 20), high: bins.high[i], count: bins.count[i], positives: bins.positives[i], series, part }))
        .filter((row) => row.x > 0 && row.y > 0))),
    histogram: () => steps(["positives", "negatives"], data.curves.model?.[task]?.histogram),
    means: () => each(data.curves, (tasks, series) => {
      const bins = tasks[task]?.means;
      return bins && bins.prediction.map((x, i) => ({ x, y: bins.label[i], low: bins.low[i], high: bins.high[i], count: bins.count[i], series }));
    }),
    values: () => steps(["predictions", "labels"], data.curves.model?.[task]?.values),
    importance: () => (data.importance[task] ?? []).map(([name, y, low, high]) => ({ name, y, low, high })),
  };

  const theme = () => {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const [ink, soft, line] = ["--ink", "--soft", "--line"].map(color);
    return {
      background: "transparent",
      font: getComputedStyle(document.body).fontFamily,
      view: { stroke: null },
      axis: { labelColor: soft, titleColor: soft, gridColor: line, domainColor: soft, tickColor: soft, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
      legend: { labelColor: ink, labelFontSize: 12, orient: "top", symbolBaseFillColor: soft, symbolBaseStrokeColor: soft, symbolStrokeWidth: 2, columnPadding: 16, offset: 4 },
      range: { category: [color("--blue"), color("--other")] },
      mark: { color: color("--blue") },
    };
  };

  const number = (value) => {
    if (typeof value !== "number") return String(value ?? "");
    const size = Math.abs(value), text = size >= 1000 ? value.toLocaleString("en", { maximumFractionDigits: 0 }) : String(Number(value.toPrecision(5)));
    return text.replace("-", "−");
  };
  const fill = (figure, chart, values) => {
    const line = (tag, cells) => {
      const row = document.createElement("tr");
      for (const text of cells) row.appendChild(document.createElement(tag)).textContent = text;
      return row;
    };
    const columns = chart.columns.filter(([field]) => values.some((row) => row[field] !== undefined));
    figure.querySelector("thead").replaceChildren(line("th", columns.map(([, head]) => head)));
    figure.querySelector("tbody").replaceChildren(...values.map((row) => line("td", columns.map(([field]) => number(row[field])))));
  };

  const draw = (figure) => {
    const key = figure.dataset.chart, chart = data.charts[key], values = rows[key]();
    const plot = figure.querySelector(".plot"), empty = values.length === 0;
    const sentence = figure.querySelector(".empty");
    figure.hidden = empty && !sentence;
    figure.querySelector(".drawn").hidden = empty;
    if (sentence) sentence.hidden = !empty;
    if (figure.querySelector("details").open) fill(figure, chart, values);
    if (empty) return undefined;
    const spec = { height: 24 * values.length, ...chart.spec, datasets: { ...chart.spec.datasets, rows: values } };
    return vegaEmbed(plot.firstElementChild, spec, { actions: false, renderer: "svg", config: theme(), tooltip: false, ast: true });
  };
  const listValues = () => {
    const box = document.getElementById("values");
    if (!box) return;
    const values = data.values[task] ?? [], largest = values[0]?.[1] || 1;
    box.hidden = values.length === 0;
    box.querySelector("tbody").replaceChildren(...values.map(([name, moved]) => {
      const row = document.createElement("tr"), head = document.createElement("th"), cell = document.createElement("td");
      Object.assign(head, { textContent: name, scope: "row", className: "word" });
      Object.assign(cell, { textContent: number(moved), className: "warm" });
      cell.style.setProperty("--heat", moved / largest);
      row.append(head, cell);
      return row;
    }));
  };
  const figures = [...document.querySelectorAll("figure[data-chart]")];
  const drawAll = () => Promise.all(figures.map(draw)).then(() => {
    for (const group of document.querySelectorAll(".charts")) {
      group.nextElementSibling.hidden = group.querySelector("figure:not([hidden])") !== null;
    }
    listValues();
    document.body.dataset.drawn = task;
  });

  const select = (name) => {
    task = name;
    for (const box of document.querySelectorAll("select.tasks")) box.value = name;
    drawAll();
  };
  for (const box of document.querySelectorAll("select.tasks")) box.addEventListener("change", () => select(box.value));
  for (const button of document.querySelectorAll("button.task")) {
    button.addEventListener("click", () => {
      select(button.dataset.task);
      figures[0]?.closest("section").scrollIntoView();
    });
  }
  for (const figure of figures) {
    figure.querySelector("details").addEventListener("toggle", (event) => {
      const key = figure.dataset.chart;
      if (event.target.open) fill(figure, data.charts[key], rows[key]());
    });
  }
  dark.addEventListener("change", drawAll);
  drawAll();

  // Sorting. Cells without a number come last in both directions.
  const compare = (one, other, sign) => {
    const [a, b] = [Number(one), Number(other)];
    if (Number.isNaN(a) && Number.isNaN(b)) return sign * one.localeCompare(other);
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) ? 1 : -1;
    return sign * (a - b);
  };
  for (const button of document.querySelectorAll("thead th[aria-sort] button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), table = head.closest("table"), column = head.cellIndex;
      const word = head.classList.contains("word");
      const down = head.ariaSort === "none" ? !word : head.ariaSort === "ascending";
      for (const other of table.querySelectorAll("thead th")) other.ariaSort = "none";
      head.ariaSort = down ? "descending" : "ascending";
      const value = ({ cells: { [column]: cell } }) => cell.dataset.value ?? cell.textContent;
      const sorted = [...table.tBodies[0].rows].sort((a, b) => compare(value(a), value(b), down ? -1 : 1));
      table.tBodies[0].append(...sorted);
    });
  }
})();
