// Asks a model from its form, draws pictures for those that take them, and scores files piece by piece.
"use strict";
(() => {
const start = (root) => {
  const csrf = document.querySelector("meta[name=csrf]").content;
  const base = root.dataset.path;
  const answer = document.getElementById("answer");
  const form = document.getElementById("one");
  const element = (name, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  const post = async (verb, body, type, signal) => {
    const reply = await fetch(`${base}/${verb}`, {
      method: "POST", body, signal, headers: { "Content-Type": type, "X-CSRF-Token": csrf },
    });
    if (reply.status === 401) location.reload();
    let read;
    try { read = await reply.json(); } catch { read = { detail: `The server returned status ${reply.status}.` }; }
    return { ok: reply.ok, read };
  };

  // The row as the form has it.
  const valueOf = (input) => {
    const text = input.value;
    if (text === "") return input.dataset.kind === "text" && input.dataset.nullable !== "true" && input.tagName === "INPUT" ? "" : null;
    if (input.dataset.kind === "boolean") return text === "true";
    if (input.dataset.kind === "text" || input.dataset.kind === "datetime") return text;
    const number = Number(text.replace(",", "."));
    return Number.isFinite(number) ? number : text;
  };
  const canvas = document.getElementById("canvas");
  const area = document.getElementById("tensor");
  const row = () => {
    if (canvas) return pixels();
    if (area) return JSON.parse(area.value);
    const found = {};
    for (const input of form.querySelectorAll("[data-field]")) found[input.dataset.field] = valueOf(input);
    return found;
  };

  const showAnswer = ({ ok, read }, took) => {
    const parts = [];
    if (!ok) {
      const box = element("div", undefined, "notice bad");
      box.append(element("strong", `${read.title || "Refused"}. `), `${read.detail || ""} ${read.remedy || ""}`);
      parts.push(box);
      for (const input of form.querySelectorAll("[data-field]")) {
        if (input.dataset.field === read.field) { input.setAttribute("aria-invalid", "true"); input.focus(); } else input.removeAttribute("aria-invalid");
      }
    } else {
      for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
      parts.push(element("p", typeof read.prediction === "number" ? String(+read.prediction.toPrecision(6)) : String(read.prediction), "prediction"));
      if (read.probabilities) parts.push(bars(read.probabilities, read.prediction));
      parts.push(element("p", `Version ${read.version}, ${took.toFixed(0)} ms including the network. Id ${read.id}`, "hint"));
    }
    answer.replaceChildren(...parts);
  };
  const bars = (probabilities, prediction) => {
    const table = element("table", undefined, "bars");
    table.append(element("caption", "Probabilities", "unseen"));
    const ranked = Object.entries(probabilities).sort((a, b) => b[1] - a[1]).slice(0, 20);
    for (const [label, share] of ranked) {
      const line = element("tr", undefined, label === String(prediction) ? "best" : "");
      const name = element("th", label);
      name.scope = "row";
      const bar = element("progress");
      bar.max = 1;
      bar.value = share;
      bar.setAttribute("aria-label", `Probability of ${label}`);
      const cell = element("td");
      cell.append(bar);
      line.append(name, cell, element("td", share.toFixed(3), "n"));
      table.append(line);
    }
    return table;
  };

  // Only the newest question counts: answers of earlier ones are dropped.
  let asked = 0;
  const ask = async () => {
    const mine = ++asked;
    let features;
    try { features = row(); } catch (error) {
      showAnswer({ ok: false, read: { title: "Not JSON", detail: error.message } });
      return;
    }
    tellCode(features);
    const began = performance.now();
    try {
      const found = await post("predict", JSON.stringify({ features }), "application/json");
      if (mine === asked) showAnswer(found, performance.now() - began);
    } catch {
      if (mine === asked) showAnswer({ ok: false, read: { title: "Server down", detail: "The server does not answer." } });
    }
  };
  form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });

  // The same as code, with this server's address and the row of the form.
  const shown = [...root.querySelectorAll("[data-snippet]")].map((pre) => [pre, pre.textContent]);
  const example = shown.length ? shown[0][1] : "";
  const python = (value) => JSON.stringify(value).replace(/\bnull\b/g, "None").replace(/\btrue\b/g, "True").replace(/\bfalse\b/g, "False");
  const write = {
    curl: (url, json) => `curl -s ${url} -H "X-API-Key: $TIDEMILL_KEY" \\\n  -H 'Content-Type: application/json' \\\n  -d '${json.replaceAll("'", "'\\''")}'`,
    Python: (url, json, body) => `import os, httpx\n\nanswer = httpx.post(\n    "${url}",\n    headers={"X-API-Key": os.environ["TIDEMILL_KEY"]},\n    json=${python(body)},\n)\nprint(answer.json()["prediction"])`,
    JavaScript: (url, json) => `const answer = await fetch("${url}", {\n  method: "POST",\n  headers: { "X-API-Key": process.env.TIDEMILL_KEY, "Content-Type": "application/json" },\n  body: JSON.stringify(${json}),\n});\nconsole.log((await answer.json()).prediction);`,
  };
  const tellCode = (features) => {
    const body = { features };
    const url = `${location.origin}/models/${encodeURIComponent(root.dataset.model)}/predict`;
    for (const [pre] of shown) pre.textContent = write[pre.dataset.snippet](url, JSON.stringify(body), body);
  };

  // Drawing. Strokes go to the large canvas; the model gets them centred and scaled as MNIST's are.
  let pixels = () => [];
  if (canvas) {
    const brush = canvas.getContext("2d", { willReadFrequently: true });
    const wide = Number(canvas.dataset.width), high = Number(canvas.dataset.height);
    const scale = canvas.width / wide;
    const clear = () => { brush.fillStyle = "#000"; brush.fillRect(0, 0, canvas.width, canvas.height); };
    const first = JSON.parse(example.slice(example.indexOf("{"), example.lastIndexOf("}") + 1) || "{}").features || [];
    const put = (values) => {
      clear();
      const top = Math.max(...values, 1e-9);
      const factor = top > 1 ? 1 : 255;
      values.forEach((value, i) => {
        const grey = Math.round(value * factor);
        brush.fillStyle = `rgb(${grey},${grey},${grey})`;
        brush.fillRect((i % wide) * scale, Math.floor(i / wide) * scale, scale, scale);
      });
    };
    const flat = first.flat(Infinity);
    const unit = flat.length && Math.max(...flat) <= 1 ? 255 : 1;
    const small = document.createElement("canvas");
    small.width = wide;
    small.height = high;
    const tool = small.getContext("2d", { willReadFrequently: true });
    let drawn = false;
    const box = () => {
      const { data } = brush.getImageData(0, 0, canvas.width, canvas.height);
      let [left, right, top, bottom] = [canvas.width, -1, canvas.height, -1];
      for (let y = 0; y < canvas.height; y++) for (let x = 0; x < canvas.width; x++) {
        if (data[4 * (y * canvas.width + x)] > 20) {
          left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
        }
      }
      return right < 0 ? null : { left, top, width: right - left + 1, height: bottom - top + 1 };
    };
    pixels = () => {
      tool.fillStyle = "#000";
      tool.fillRect(0, 0, wide, high);
      const found = drawn ? box() : null;
      tool.imageSmoothingQuality = "high";
      if (found) {
        const size = (Math.min(wide, high) * 20) / 28 / Math.max(found.width, found.height);
        const w = found.width * size, h = found.height * size;
        tool.drawImage(canvas, found.left, found.top, found.width, found.height, (wide - w) / 2, (high - h) / 2, w, h);
      } else {
        tool.drawImage(canvas, 0, 0, wide, high);
      }
      const { data } = tool.getImageData(0, 0, wide, high);
      return Array.from({ length: wide * high }, (_, i) => +(data[4 * i] / unit).toFixed(4));
    };
    let at = null;
    const place = (event) => {
      const frame = canvas.getBoundingClientRect();
      return [((event.clientX - frame.left) * canvas.width) / frame.width, ((event.clientY - frame.top) * canvas.height) / frame.height];
    };
    const stroke = (from, to) => {
      drawn = true;
      brush.strokeStyle = "#fff";
      brush.lineWidth = scale * 2;
      brush.lineCap = brush.lineJoin = "round";
      brush.beginPath();
      brush.moveTo(...from);
      brush.lineTo(...to);
      brush.stroke();
    };
    const wipe = () => { clear(); drawn = false; answer.replaceChildren(element("p", "Draw something.", "hint")); };
    canvas.addEventListener("pointerdown", (event) => { if (!drawn) clear(); canvas.setPointerCapture(event.pointerId); at = place(event); stroke(at, at); event.preventDefault(); });
    canvas.addEventListener("pointermove", (event) => { if (!at) return; const next = place(event); stroke(at, next); at = next; });
    const done = () => { if (at) { at = null; ask(); } };
    canvas.addEventListener("pointerup", done);
    canvas.addEventListener("pointercancel", done);
    let pen = [canvas.width / 2, canvas.height / 4], down = false;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    canvas.addEventListener("keydown", (event) => {
      const move = moves[event.key];
      if (event.key === " ") { down = !down; if (down && !drawn) clear(); if (!down) ask(); }
      else if (event.key === "Delete" || event.key === "Backspace") wipe();
      else if (move) {
        const next = [pen[0] + move[0] * scale, pen[1] + move[1] * scale].map((v, i) => Math.min(Math.max(v, 0), i ? canvas.height : canvas.width));
        if (down) stroke(pen, next);
        pen = next;
      } else return;
      event.preventDefault();
    });
    document.getElementById("clear").addEventListener("click", wipe);
    document.getElementById("example").addEventListener("click", () => { drawn = false; put(flat); ask(); });
    put(flat);
  }
  try { tellCode(row()); } catch { /* what is in the field is not JSON yet */ }

  // Files: read line by line, sent some hundred lines at a time, put together again as a CSV.
  const LINES = 500, BYTES = 256 * 1024;
  const batch = document.getElementById("batch");
  const stop = document.getElementById("stop");
  const bar = document.getElementById("scored");
  const said = document.getElementById("batch-said");
  async function* records(file) {
    // A record ends at a line break outside quotes.
    const reader = file.stream().pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", quoted = false, seen = 0;
    for (;;) {
      const { value, done } = await reader.read();
      rest += value || "";
      let start = 0;
      for (; seen < rest.length; seen++) {
        const sign = rest[seen];
        if (sign === '"') quoted = !quoted;
        else if (sign === "\n" && !quoted) {
          yield rest.slice(start, seen).replace(/\r$/, "");
          start = seen + 1;
        }
      }
      rest = rest.slice(start);
      seen -= start;
      if (done) {
        if (rest) yield rest;
        return;
      }
    }
  }
  const cell = (value) => {
    const text = value === undefined || value === null ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const scoreFile = async (file, signal) => {
    let header = null, labels = null, lines = [], size = 0, done = 0, refused = 0, bytes = 0;
    const out = [];
    const flush = async () => {
      if (!lines.length) return;
      const { ok, read } = await post("score", [header, ...lines].join("\n"), "text/csv", signal);
      if (!ok) throw new Error(`${read.detail || read.title} ${read.remedy || ""}`);
      if (!labels) {
        labels = read.labels;
        out.push([header, "prediction", ...(labels.length ? ["confidence", ...labels.map((l) => cell(`probability_${l}`))] : []), "error"].join(",") + "\r\n");
      }
      read.rows.forEach((found, i) => {
        const shares = labels.length ? [cell(found.confidence), ...labels.map((l) => cell(found.probabilities && found.probabilities[l]))] : [];
        out.push([lines[i], cell(found.prediction), ...shares, cell(found.error)].join(",") + "\r\n");
        if (found.error) refused += 1;
      });
      done += lines.length;
      lines = [];
      size = 0;
      bar.value = Math.min(1, bytes / Math.max(file.size, 1));
      said.textContent = `${done} rows scored …`;
    };
    for await (const record of records(file)) {
      if (signal.aborted) throw new DOMException("stopped", "AbortError");
      bytes += record.length + 1;
      if (header === null) { header = record.replace(/^\ufeff/, ""); continue; }
      if (record === "") continue;
      lines.push(record);
      size += record.length;
      if (lines.length >= LINES || size >= BYTES) await flush();
    }
    if (header === null) throw new Error("The file is empty.");
    await flush();
    bar.value = 1;
    return { out, done, refused };
  };
  batch.addEventListener("submit", async (event) => {
    event.preventDefault();
    const file = document.getElementById("file").files[0];
    const control = new AbortController();
    const send = batch.querySelector("button");
    stop.onclick = () => control.abort();
    stop.hidden = bar.hidden = false;
    send.disabled = true;
    bar.value = 0;
    try {
      const { out, done, refused } = await scoreFile(file, control.signal);
      const link = element("a", "Download");
      if (said.dataset.url) URL.revokeObjectURL(said.dataset.url);
      link.href = said.dataset.url = URL.createObjectURL(new Blob(out, { type: "text/csv" }));
      link.download = file.name.replace(/(\.csv)?$/i, "-scored.csv");
      link.className = "button main";
      const words = `${done} rows scored` + (refused ? `, ${refused} of them refused; see the column 'error'. ` : ". ");
      said.replaceChildren(words, link);
    } catch (error) {
      said.textContent = error.name === "AbortError" ? "Stopped." : error.message;
    } finally {
      stop.hidden = true;
      send.disabled = false;
    }
  });
};

// The form may come after this script: the page says first that it asks for what is served.
const found = () => {
  const root = document.getElementById("try");
  if (root) start(root);
  return root;
};
if (!found()) {
  const watch = new MutationObserver(() => { if (found()) watch.disconnect(); });
  watch.observe(document.getElementById("page"), { childList: true, subtree: true });
}
})();
