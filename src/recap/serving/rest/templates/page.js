"use strict";
// Scores candidates by POST /v1/models/{model}/rank, and orders them by the published formula with other weights.
(() => {
  const HALFWAY = 50, END = 100, DECADE = 25, SHOWN = 500, EPSILON = 0.001;
  const find = (id) => document.getElementById(id);
  const element = (tag, text = "", classes = "") => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (classes) made.className = classes;
    return made;
  };
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const rounded = (value) => Number(value.toPrecision(4));
  const number = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    return (size && (size < 1e-4 || size >= 1e6) ? value.toExponential(2) : String(rounded(value))).replace("-", "−");
  };

  let models = [], model = null, result = null, weights = [], prefilled = "";

  // Requests

  const ask = async (path, options = {}) => {
    const headers = { ...options.headers }, token = find("token").value.trim();
    if (token) headers.Authorization = `Bearer ${token}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch {
      throw new Error("the server does not answer; is it running?");
    }
    const content = await response.json().catch(() => ({}));
    if (response.status === 401) find("token-box").hidden = false;
    if (!response.ok) throw new Error(content.error ?? `the server answered ${response.status}`);
    return content;
  };
  const fails = (error) => { find("error").textContent = error.message; };

  const connect = async () => {
    find("error").textContent = "";
    try {
      models = (await ask("v1/models")).models;
    } catch (error) {
      find("about").textContent = "Not connected.";
      return fails(error);
    }
    find("model").replaceChildren(...models.map((item) => {
      const option = element("option", item.model);
      option.value = item.model;
      return option;
    }));
    choose();
  };
  const choose = () => {
    model = models.find((item) => item.model === find("model").value) ?? models[0] ?? null;
    result = null;
    find("result").hidden = !model;
    find("order").hidden = true;
    if (!model) {
      find("about").textContent = "The server has no models.";
      return;
    }
    find("about").textContent = `${model.model}, version ${model.versions.at(-1)}: predicts ${model.tasks.join(", ")}`;
    find("columns").replaceChildren(...Object.entries(model.columns).map(([name, kind]) => {
      const line = document.createElement("tr");
      line.append(element("td", name, "word"), element("td", kind.endsWith("s") ? `list of ${kind}` : kind, "word"));
      return line;
    }));
    if (["", prefilled].includes(find("text").value)) find("text").value = prefilled = example();
    controls();
    set(model.tasks.map((task) => model.weights[task] ?? 0));
  };
  const example = () => {
    const row = (value) => Object.fromEntries(Object.entries(model.columns).map(([name, kind]) => [name, lists(kind) || kind === "text" ? null : value]));
    const lines = [row(0), row(1)].map((item) => `    ${JSON.stringify(item)}`);
    return `{\n  "user": {},\n  "candidates": [\n${lines.join(",\n")}\n  ]\n}`;
  };

  // Input

  const lists = (kind) => kind?.endsWith("s");
  const csvRows = (text) => {
    const separator = text.split("\n", 1)[0].includes("\t") ? "\t" : ",";
    const rows = [[]];
    let cell = "", quoted = false, wasQuoted = false;
    const endCell = () => {
      rows.at(-1).push(cell === "" && !wasQuoted ? null : cell);
      cell = "";
      wasQuoted = false;
    };
    for (let at = 0; at < text.length; at++) {
      const letter = text[at];
      if (quoted) {
        if (letter !== '"') cell += letter;
        else if (text[at + 1] === '"') { cell += '"'; at++; }
        else quoted = false;
      } else if (letter === '"' && cell === "") { quoted = true; wasQuoted = true; }
      else if (letter === separator) endCell();
      else if (letter === "\n") { endCell(); rows.push([]); }
      else if (letter !== "\r") cell += letter;
    }
    if (quoted) throw new Error("CSV: a quoted cell does not end");
    endCell();
    return rows.filter((row) => row.length > 1 || (row.length === 1 && row[0] !== null));
  };
  const cellValue = (text, kind, where) => {
    if (text === null) return null;
    if (lists(kind)) {
      try {
        return JSON.parse(text);
      } catch {
        throw new Error(`${where}: found ${text.slice(0, 40)}, expected a list in JSON, such as [1, 2]`);
      }
    }
    const plain = /^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$/.test(text);
    if (kind === "number") {
      if (/^(true|false)$/i.test(text)) return text.toLowerCase() === "true" ? 1 : 0;
      if (/^(nan|null)$/i.test(text)) return null;
      if (!plain) throw new Error(`${where}: found ${text.slice(0, 40)}, expected a number`);
      return Number(text);
    }
    return kind === "integer" && plain && Number.isSafeInteger(Number(text)) ? Number(text) : text;
  };
  const fromCsv = (text) => {
    const [names, ...rows] = csvRows(text);
    if (!rows.length) throw new Error("CSV: expected a header and at least one line");
    return rows.map((row, line) => {
      if (row.length !== names.length)
        throw new Error(`CSV line ${line + 2}: found ${row.length} cells, expected ${names.length} as in the header`);
      return Object.fromEntries(names.map((name, index) =>
        [name, cellValue(row[index], model.columns[name], `CSV line ${line + 2}, ${name}`)]));
    });
  };
  const parsed = (text) => {
    const start = text.trimStart()[0];
    if (start !== "{" && start !== "[") return { user: {}, candidates: fromCsv(text) };
    let value;
    try {
      value = JSON.parse(text);
    } catch (error) {
      const lines = text.split("\n").filter((line) => line.trim());
      try {
        value = lines.map((line) => JSON.parse(line));  // JSON lines
      } catch {
        throw new Error(`not JSON: ${error.message}`);
      }
    }
    const content = Array.isArray(value) ? { user: {}, candidates: value } : { user: value.user ?? {}, candidates: value.candidates };
    if (!Array.isArray(content.candidates) || !content.candidates.length || content.candidates.some((row) => row === null || typeof row !== "object"))
      throw new Error("expected a list of candidates, or an object with user and candidates");
    return content;
  };
  const known = (row) => Object.fromEntries(Object.entries(row).filter(([name]) => name in model.columns || name === model.user || model.carried.includes(name)));

  const score = async () => {
    find("error").textContent = "";
    find("score").disabled = true;
    try {
      if (!model) throw new Error("connect first");
      const content = parsed(find("text").value);
      const body = JSON.stringify({ user: known(content.user), candidates: content.candidates.map(known) });
      const started = performance.now();
      const answer = await ask(`v1/models/${encodeURIComponent(model.model)}/rank`, {
        method: "POST", headers: { "Content-Type": "application/json" }, body,
      });
      show(content.candidates, answer, performance.now() - started);
    } catch (error) {
      fails(error);
    } finally {
      find("score").disabled = false;
    }
  };

  // Result

  const show = (candidates, answer, milliseconds) => {
    const count = answer.scores.length;
    // JSON has the shortest text of a float32; this is the same number again, as the server adds it.
    const predictions = model.tasks.map((task) => answer.probabilities[task].map((value) => (value === null ? null : Math.fround(value))));
    const extra = Object.keys(candidates[0]).filter((name) => !(name in model.columns));
    const failed = new Set(answer.errors.map((item) => item.candidate));
    const places = new Map(answer.order.map((candidate, place) => [candidate, place]));
    result = { candidates, count, predictions, extra, failed, places, answer, milliseconds };
    find("heads").replaceChildren(
      ...["place", "moved", "candidate", "score", ...model.tasks].map((name) => element("th", name)),
      ...extra.map((name) => element("th", name, "word")));
    for (const head of find("heads").children) head.scope = "col";
    find("order").hidden = false;
    update();
  };
  const scores = () => {
    const negative = -sum(weights.filter((weight) => weight < 0)), total = sum(weights.map(Math.abs));
    return Array.from({ length: result.count }, (_, row) => {
      const values = result.predictions.map((column) => column[row]);
      if (values.includes(null)) return null;
      const weighted = sum(values.map((value, task) => weights[task] * value));
      const score = total === 0 ? weighted : weighted < 0 ? ((weighted + negative) / total) * EPSILON : weighted + EPSILON;
      return Math.max(score, 0);
    });
  };
  const update = () => {
    find("yaml").value = yaml();
    find("yaml").rows = Math.min(find("yaml").value.split("\n").length, 12);
    if (!result) {
      find("summary").textContent = "Score the candidates to see their order.";
      return;
    }
    const now = scores(), best = result.predictions.map((column) => Math.max(...column.map((value) => value ?? 0), 1e-12));
    const order = Array.from({ length: result.count }, (_, row) => row).filter((row) => now[row] !== null);
    order.sort((one, other) => now[other] - now[one] || one - other);
    const rows = [...order, ...result.failed];
    find("rows").replaceChildren(...rows.slice(0, SHOWN).map((row, place) => {
      const line = document.createElement("tr"), moved = now[row] === null || !result.places.has(row) ? 0 : result.places.get(row) - place;
      line.dataset.candidate = row;
      line.append(element("td", now[row] === null ? "–" : String(place + 1)));
      line.append(element("td", moved ? `${moved > 0 ? "↑" : "↓"} ${Math.abs(moved)}` : "·", moved > 0 ? "up" : moved < 0 ? "down" : ""));
      line.append(element("td", String(row)));
      const scored = element("td", now[row] === null ? "not finite" : number(now[row]));
      if (now[row] !== null) scored.dataset.score = now[row];
      line.append(scored);
      result.predictions.forEach((column, task) => {
        const cell = element("td", number(column[row]), "bar");
        cell.style.setProperty("--share", `${Math.max(0, Math.min(100, (100 * (column[row] ?? 0)) / best[task]))}%`);
        line.append(cell);
      });
      for (const name of result.extra) {
        const value = result.candidates[row][name], text = value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
        const cell = element("td", text, "word");
        cell.title = text;
        line.append(cell);
      }
      return line;
    }));
    const { answer, count } = result, notes = [`${count.toLocaleString("en")} candidates`, `version ${answer.version}`, `${result.milliseconds.toFixed(0)} ms`];
    if (answer.shed) notes.push(`${answer.shed.toLocaleString("en")} not scored: the server is busy`);
    if (answer.errors.length) notes.push(`${answer.errors.length} without a score: ${answer.errors[0].error}`);
    if (rows.length > SHOWN) notes.push(`the first ${SHOWN} are shown`);
    find("summary").textContent = notes.join(" · ");
  };
  const plain = /^[A-Za-z_][A-Za-z0-9_]*$/, words = /^(y|n|yes|no|on|off|true|false|null)$/i;
  const yaml = () => {
    const lines = model.tasks.flatMap((task, index) => {
      if (!weights[index] && !model.weights[task]) return [];
      const name = plain.test(task) && !words.test(task) ? task : JSON.stringify(task);
      return `    ${name}: ${String(weights[index]).replace(/^(-?\d+)e/, "$1.0e")}`;
    });
    return lines.length ? ["scoring:", "  weights:", ...lines].join("\n") : "scoring: {weights: {}}";
  };

  // Weights

  let inputs = [];
  const unit = (index) => Math.abs(model.weights[model.tasks[index]] ?? 0) || 1;
  const weightAt = (index, position) => {
    if (!position) return 0;
    const weight = Math.abs(position) === HALFWAY ? unit(index) : rounded(unit(index) * 10 ** ((Math.abs(position) - HALFWAY) / DECADE));
    return Math.sign(position) * weight;
  };
  const positionOf = (index, weight) => {
    if (!weight) return 0;
    const position = Math.round(HALFWAY + DECADE * Math.log10(Math.abs(weight) / unit(index)));
    return Math.sign(weight) * Math.min(Math.max(position, 1), END);
  };
  const controls = () => {
    inputs = model.tasks.map((task, index) => {
      const slider = document.createElement("input"), field = document.createElement("input");
      Object.assign(slider, { type: "range", min: -END, max: END, step: 1, id: `weight-${index}` });
      Object.assign(field, { type: "number", step: "any" });
      field.setAttribute("aria-label", `weight of ${task}`);
      slider.addEventListener("input", () => {
        weights[index] = weightAt(index, Number(slider.value));
        reflect(index, field);
      });
      field.addEventListener("input", () => {
        const value = field.value.trim() === "" ? NaN : Number(field.value);
        field.setAttribute("aria-invalid", String(!Number.isFinite(value)));
        if (!Number.isFinite(value)) return;
        weights[index] = value;
        reflect(index, slider);
      });
      return { slider, field };
    });
    find("weights").replaceChildren(...model.tasks.map((task, index) => {
      const box = element("div", "", "weight"), label = element("label", task);
      label.htmlFor = `weight-${index}`;
      box.append(label, inputs[index].slider, inputs[index].field);
      return box;
    }));
  };
  const reflect = (index, ...shown) => {
    const { slider, field } = inputs[index];
    if (shown.includes(slider)) slider.value = positionOf(index, weights[index]);
    if (shown.includes(field)) {
      field.value = weights[index];
      field.setAttribute("aria-invalid", "false");
    }
    slider.setAttribute("aria-valuetext", String(weights[index]));
    update();
  };
  const set = (values) => {
    weights = [...values];
    inputs.forEach(({ slider, field }, index) => {
      slider.value = positionOf(index, weights[index]);
      slider.setAttribute("aria-valuetext", String(weights[index]));
      field.value = weights[index];
      field.setAttribute("aria-invalid", "false");
    });
    update();
  };

  find("model").addEventListener("change", choose);
  find("connect").addEventListener("click", connect);
  find("token").addEventListener("keydown", (event) => { if (event.key === "Enter") connect(); });
  find("score").addEventListener("click", score);
  find("text").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) score(); });
  find("reset").addEventListener("click", () => set(model.tasks.map((task) => model.weights[task] ?? 0)));
  find("file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (file) find("text").value = await file.text();
    event.target.value = "";
  });
  find("example").addEventListener("click", () => {
    if (!model) return fails(new Error("connect first"));
    find("text").value = prefilled = example();
  });
  connect();
})();
