"use strict";
// The weights what-if. Its definitions are those of evaluation/weights/lists.py, and its numbers are the same.
(() => {
  const TOP = 5, SEEN = 10, HALFWAY = 50, END = 100, DECADE = 25;
  const data = JSON.parse(document.getElementById("data").textContent).what_if;
  const find = (id) => document.getElementById(`wi-${id}`);
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const rounded = (value) => Number(value.toPrecision(4));

  const sizes = data.sizes, rows = sum(sizes), starts = [];
  sizes.reduce((start, size) => (starts.push(start), start + size), 0);
  const half = (bits) => {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  };
  const decoded = (column) => {
    const bytes = Uint8Array.from(atob(column.bits ?? column.halves), (character) => character.charCodeAt(0));
    const value = column.halves === undefined
      ? (row) => (bytes[row >> 3] >> (7 - (row & 7))) & 1
      : (row) => half(bytes[2 * row] | (bytes[2 * row + 1] << 8)) * 2 ** -column.exponent;
    return Float64Array.from({ length: rows }, (_, row) => value(row));
  };
  const tasks = data.tasks.map((task) => ({ ...task, predictions: decoded(task.predictions), labels: decoded(task.labels) }));
  for (const task of tasks) task.mean = sum(Array.from(task.predictions, Math.abs)) / rows;
  const attention = new Float64Array(rows);
  sizes.forEach((size, list) => {
    for (let place = 0; place < Math.min(size, SEEN); place++) attention[starts[list] + place] = 1 / Math.log2(place + 2);
  });
  const allAttention = sum(attention);

  const scored = (weights) => {
    const scores = new Float64Array(rows);
    tasks.forEach((task, index) => {
      for (let row = 0; row < rows; row++) scores[row] += weights[index] * task.predictions[row];
    });
    return scores;
  };
  const ordered = (scores) => {
    const order = new Int32Array(rows);
    sizes.forEach((size, list) => {
      const mine = Array.from({ length: size }, (_, place) => starts[list] + place);
      mine.sort((one, other) => scores[other] - scores[one] || one - other);
      order.set(mine, starts[list]);
    });
    return order;
  };
  const perThousand = (values, order) => {
    let total = 0;
    for (let at = 0; at < rows; at++) total += attention[at] * values[order[at]];
    return (1000 * total) / allAttention;
  };
  const placesOf = (order) => {
    const places = new Int32Array(rows);
    sizes.forEach((size, list) => {
      for (let place = 0; place < size; place++) places[order[starts[list] + place]] = place;
    });
    return places;
  };
  const kendall = (one, other) => sum(sizes.map((size, list) => {
    let agreement = 0;
    for (let i = starts[list]; i < starts[list] + size; i++)
      for (let j = i + 1; j < starts[list] + size; j++)
        agreement += Math.sign(one[i] - one[j]) * Math.sign(other[i] - other[j]);
    return (2 * agreement) / (size * (size - 1));
  })) / sizes.length;
  const overlap = (one, other) => sum(sizes.map((size, list) => {
    let common = 0;
    for (let row = starts[list]; row < starts[list] + size; row++) common += one[row] < TOP && other[row] < TOP;
    return common / TOP;
  })) / sizes.length;

  const current = tasks.map((task) => task.weight);
  const used = tasks.filter((task) => task.weight && task.mean);
  const contribution = used.length ? sum(used.map((task) => Math.abs(task.weight) * task.mean)) / used.length : 1;
  const equalized = tasks.map((task) => (task.weight && task.mean ? rounded((Math.sign(task.weight) * contribution) / task.mean) : task.weight));
  const units = tasks.map((task) => Math.abs(task.weight) || (task.mean ? rounded(contribution / task.mean) : 1));
  const weightAt = (index, position) => {
    if (!position) return 0;
    const weight = units[index] * 10 ** ((Math.abs(position) - HALFWAY) / DECADE);
    return Math.sign(position) * (Math.abs(position) === HALFWAY ? units[index] : rounded(weight));
  };
  const positionOf = (index, weight) => {
    if (!weight) return 0;
    const position = Math.round(HALFWAY + DECADE * Math.log10(Math.abs(weight) / units[index]));
    return Math.sign(weight) * Math.min(Math.max(position, 1), END);
  };
  const before = ordered(scored(current)), placesBefore = placesOf(before);
  const expectedBefore = tasks.map((task) => perThousand(task.predictions, before));
  const observedBefore = tasks.map((task) => perThousand(task.labels, before));
  let weights = [...current];

  const element = (tag, text = "", classes = "") => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (classes) made.className = classes;
    return made;
  };
  const number = (value) => {
    const size = Math.abs(value), tiny = size < 1e-3 || size >= 1e9;
    const text = size >= 1000 ? value.toLocaleString("en", { maximumFractionDigits: 0 }) : String(Number(value.toPrecision(4)));
    return (!size ? "0" : tiny ? value.toExponential(2) : text).replaceAll("-", "−");
  };
  const change = (now, then) => {
    const text = Math.abs((now / then - 1) * 100).toFixed(1), sign = text === "0.0" ? "" : now < then ? "−" : "+";
    return then ? `${sign}${text}%` : "–";
  };
  const numeric = (value, text) => {
    const cell = element("td", text);
    cell.dataset.value = value;
    return cell;
  };

  const controls = tasks.map((task, index) => {
    const box = element("div", "", "weight"), label = element("label", task.name);
    const slider = document.createElement("input"), field = document.createElement("input");
    Object.assign(slider, { type: "range", min: -END, max: END, step: 1, id: `wi-slider-${index}` });
    Object.assign(field, { type: "number", step: "any" });
    label.htmlFor = slider.id;
    field.setAttribute("aria-label", `weight of ${task.name}`);
    slider.addEventListener("input", () => {
      weights[index] = weightAt(index, Number(slider.value));
      show(index, field);
    });
    field.addEventListener("input", () => {
      const value = field.value.trim() === "" ? NaN : Number(field.value);
      field.setAttribute("aria-invalid", String(!Number.isFinite(value)));
      if (!Number.isFinite(value)) return;
      weights[index] = value;
      show(index, slider);
    });
    box.append(label, slider, field);
    find("weights").append(box);
    return { slider, field };
  });
  const show = (index, ...inputs) => {
    const { slider, field } = controls[index], shown = inputs.length ? inputs : [slider, field];
    if (shown.includes(slider)) slider.value = positionOf(index, weights[index]);
    if (shown.includes(field)) {
      field.value = weights[index];
      field.setAttribute("aria-invalid", "false");
    }
    slider.setAttribute("aria-valuetext", String(weights[index]));
    schedule();
  };
  const set = (values) => {
    weights = [...values];
    tasks.forEach((_, index) => show(index));
  };

  const plain = /^[A-Za-z_][A-Za-z0-9_]*$/, words = /^(y|n|yes|no|on|off|true|false|null)$/i;
  const yaml = () => {
    const lines = tasks.flatMap((task, index) => {
      if (!weights[index] && !current[index]) return [];
      const name = plain.test(task.name) && !words.test(task.name) ? task.name : JSON.stringify(task.name);
      return `    ${name}: ${String(weights[index]).replace(/^(-?\d+)e/, "$1.0e")}`;
    });
    return lines.length ? ["scoring:", "  weights:", ...lines, ""].join("\n") : "scoring: {weights: {}}\n";
  };

  const engaged = (row) => tasks.filter((task) => !task.regression && task.labels[row]).map((task) => task.name).join(", ");
  const showList = (after) => {
    const list = Number(find("list").value), lines = [];
    for (let place = 0; place < Math.min(sizes[list], SEEN); place++) {
      const line = document.createElement("tr"), old = before[starts[list] + place], row = after[starts[list] + place];
      const moved = placesBefore[row] - place;
      line.append(element("td", String(place + 1)), element("td", engaged(old), "labels"));
      line.append(numeric(placesBefore[row] + 1, String(placesBefore[row] + 1)));
      line.append(element("td", moved ? `${moved > 0 ? "↑" : "↓"} ${Math.abs(moved)}` : "·"), element("td", engaged(row), "labels"));
      lines.push(line);
    }
    find("rows").replaceChildren(...lines);
  };

  const update = () => {
    const after = ordered(scored(weights)), places = placesOf(after);
    const same = kendall(placesBefore, places), kept = overlap(placesBefore, places);
    find("summary").textContent = `Rank correlation with the current order (Kendall's τ): ${same.toFixed(3)}. Of the first ${TOP} rows, ${(100 * kept).toFixed(0)}% are the same.`;
    Object.assign(find("summary").dataset, { kendall: same, overlap: kept });
    find("tasks").replaceChildren(...tasks.map((task, index) => {
      const line = document.createElement("tr"), head = element("th", task.name, "word");
      head.scope = "row";
      const expected = perThousand(task.predictions, after), observed = perThousand(task.labels, after);
      const gain = (expected - expectedBefore[index]) * Math.sign(current[index]);
      const text = change(expected, expectedBefore[index]);
      const cell = element("td", text, !gain || text.startsWith("0.0") ? "" : gain > 0 ? "better" : "worse");
      line.append(head, numeric(expectedBefore[index], number(expectedBefore[index])), numeric(expected, number(expected)), cell);
      line.append(numeric(observed, change(observed, observedBefore[index])));
      return line;
    }));
    find("yaml").value = yaml();
    find("yaml").rows = find("yaml").value.split("\n").length;
    find("copied").textContent = "";
    showList(after);
  };
  let waiting = false;
  const schedule = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      update();
    });
  };

  find("size").textContent = `${sizes.length.toLocaleString("en")} of about ${data.lists.toLocaleString("en")} lists with at least ${TOP} rows, ${rows.toLocaleString("en")} rows`;
  const lively = sizes.map((size, list) => [list, sum(tasks.map((task) => (task.regression ? 0 : sum(Array.from(task.labels.subarray(starts[list], starts[list] + size), (label) => (label ? 1 : 0))))))]);
  lively.sort((one, other) => other[1] - one[1] || one[0] - other[0]);
  for (const [list, count] of lively.slice(0, 30)) {
    const option = element("option", `${list + 1}: ${sizes[list]} rows, ${count} engagements`);
    option.value = list;
    find("list").append(option);
  }
  find("list").addEventListener("change", schedule);
  find("equalize").addEventListener("click", () => set(equalized));
  find("reset").addEventListener("click", () => set(current));
  find("copy").addEventListener("click", async () => {
    find("yaml").select();
    try {
      await navigator.clipboard.writeText(find("yaml").value);
      find("copied").textContent = "Copied";
    } catch {
      find("copied").textContent = document.execCommand("copy") ? "Copied" : "Selected; press Ctrl+C to copy";
    }
  });
  set(current);
})();
