// Makes the form of the page quicker to use. Everything that is shown comes from the server: the form is sent, and the results
// in the answer take the place of those that were there.

const $ = (id) => document.getElementById(id);
const form = $("form");
const areas = [...form.querySelectorAll("textarea")];
const boxes = [...form.querySelectorAll("input[name=model]")];
const submit = form.querySelector("button[type=submit]");
const maxRows = Number(form.dataset.maxRows);
let running = null;

const reveal = (root) => root.querySelectorAll(".with-script").forEach((element) => (element.hidden = false));
const say = (text) => ($("status").textContent = text);

// Sending.

/// The lines of all fields, row by row; rows that are empty in all fields are left out.
function rows() {
  const columns = areas.map((area) => area.value.split(/\r\n|\r|\n/));
  const count = Math.max(...columns.map((lines) => lines.length));
  const all = Array.from({ length: count }, (_, at) => columns.map((lines) => lines[at] ?? ""));
  return all.filter((row) => row.some((text) => text.trim() !== ""));
}

/// The form as it would be sent, with other rows.
function body(some) {
  const data = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (typeof value === "string") data.append(name, value);
  areas.forEach((area, at) => data.set(area.name, some.map((row) => row[at]).join("\n")));
  return data;
}

async function ask(some, signal) {
  const answer = await fetch("/", { method: "POST", body: body(some), signal });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const results = page.getElementById("results");
  if (!results) throw new Error(`The server answers ${answer.status}: ${page.body.textContent.trim().slice(0, 300)}`);
  return { page, results, ok: answer.ok };
}

async function run() {
  if (running) return;
  const all = rows();
  if (all.length === 0) {
    areas[0]?.focus();
    return say("Write something first.");
  }
  if (boxes.length > 0 && !boxes.some((box) => box.checked)) {
    boxes[0].focus();
    return say("Choose a model.");
  }
  running = new AbortController();
  busy(true);
  try {
    let done = 0;
    for (let at = 0; at < all.length; at += maxRows) {
      const some = all.slice(at, at + maxRows);
      say(all.length > maxRows ? `${done} of ${all.length} rows are done` : "Working …");
      const { page, results, ok } = await ask(some, running.signal);
      if (at === 0 || !ok) show(page, results);
      else append(results);
      if (!ok) break;
      done += some.length;
    }
    say(done < all.length ? `Stopped after ${done} of ${all.length} rows.` : "");
    $("results").focus({ preventScroll: true });
    if ($("results").getBoundingClientRect().top > innerHeight * 0.6) $("results").scrollIntoView();
  } catch (error) {
    say(error.name === "AbortError" ? "Cancelled." : error instanceof TypeError ? "The server cannot be reached." : error.message);
  } finally {
    running = null;
    busy(false);
  }
}

function busy(is) {
  submit.disabled = is;
  $("cancel").hidden = !is;
  $("results").setAttribute("aria-busy", String(is));
}

function show(page, results) {
  $("results").replaceChildren(...results.childNodes);
  document.querySelector("main").className = page.querySelector("main")?.className ?? "";
  const programs = page.getElementById("programs");
  if (programs) for (const id of ["curl", "python"]) $(id).textContent = programs.querySelector(`#${id}`).textContent;
  reveal($("results"));
  judge();
}

/// Adds the results of a further batch.
function append(results) {
  const more = JSON.parse(results.querySelector("#rows").textContent);
  const data = JSON.parse($("rows").textContent);
  for (const [port, rows] of Object.entries(more)) data[port] = [...(data[port] ?? []), ...rows];
  $("rows").textContent = JSON.stringify(data);
  $("groups").append(...results.querySelector("#groups").childNodes);
  judge();
}

// Thresholds: moved ones judge again what is there.

const passes = { "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b };
const wrong = { "<": "is not below", "<=": "is above", ">": "is not above", ">=": "is below" };

function judge() {
  const sliders = [...$("results").querySelectorAll(".slider input")];
  sliders.forEach((slider) => (slider.parentElement.querySelector("output").value = slider.value));
  const candidates = [...$("results").querySelectorAll(".candidate")];
  const counts = new Map();
  for (const candidate of candidates.filter((candidate) => candidate.querySelector(".verdict"))) {
    const values = JSON.parse(candidate.dataset.values);
    const { model } = candidate.dataset;
    // Without a name they are of the only model there is.
    const own = sliders.filter(({ dataset: { models } }) => models === "" || models.split("\n").includes(model));
    const reasons = own.flatMap(({ dataset: { column, comparison, label }, value }) => {
      const found = values[column];
      if (found !== null && found !== undefined && passes[comparison](found, Number(value))) return [];
      return [`${label} ${found === null || found === undefined ? "nothing" : Number(found.toFixed(3))} ${wrong[comparison]} ${value}`];
    });
    reasons.push(...JSON.parse(candidate.dataset.others));
    const is = reasons.length === 0;
    const [kept, rejected] = counts.get(model) ?? [0, 0];
    counts.set(model, [kept + is, rejected + !is]);
    candidate.classList.toggle("kept", is);
    candidate.classList.toggle("rejected", !is);
    candidate.querySelector(".verdict").textContent = is ? "kept" : "rejected";
    candidate.querySelector(".reason").textContent = reasons.join("; ");
  }
  for (const summary of $("summary")?.children ?? []) {
    const count = counts.get(summary.dataset.model);
    if (count) summary.lastElementChild.textContent = `${count[0]} kept, ${count[1]} rejected`;
  }
}

// Out: files, the clipboard, a link.

function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/// All rows of all outputs, each with the output that it is of.
function csv() {
  const data = JSON.parse($("rows").textContent);
  const all = Object.entries(data).flatMap(([output, rows]) => rows.map((row) => ({ ...row, output })));
  const columns = [...new Set(all.flatMap(Object.keys))].filter((name) => !name.startsWith("_"));
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...all.map((row) => columns.map((name) => row[name]))].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${what} copied.`);
  } catch {
    say("The browser does not let this page use the clipboard.");
  }
}

const texts = () =>
  [...$("results").querySelectorAll(".candidate:not(.rejected) .text")].map((text) => text.dataset.text).join("\n");

/// The form as a link. What follows the `#` stays in the browser.
function link() {
  const data = body(rows());
  const ticked = boxes.filter((box) => box.checked).length;
  const changed = [...data].filter(([name, value]) =>
    name === "model" ? ticked < boxes.length : value !== form.elements[name]?.dataset?.default && value !== "");
  return `${location.origin}${location.pathname}#${new URLSearchParams(changed)}`;
}

function restore() {
  const linked = new URLSearchParams(location.hash.slice(1));
  const models = linked.getAll("model");
  if (models.length > 0) boxes.forEach((box) => (box.checked = models.includes(box.value)));
  for (const [name, value] of linked) {
    if (name === "model") continue;
    const element = form.elements[name];
    if (!element || element instanceof RadioNodeList || element.type === "file") continue;
    if (element.type === "checkbox") element.checked = value === "true";
    else element.value = value;
    const details = element.closest("details");
    if (details) details.open = true;
  }
}

// In: a file.

/// The cells of a CSV or TSV file, row by row.
function cells(text) {
  const head = text.slice(0, text.search(/[\r\n]/) >>> 0);
  const comma = head.includes("\t") ? "\t" : head.includes(";") && !head.includes(",") ? ";" : ",";
  const all = [];
  let row = [];
  let cell = "";
  let quoted = false;
  for (let at = 0; at < text.length; at++) {
    const letter = text[at];
    if (quoted) {
      if (letter !== '"') cell += letter;
      else if (text[at + 1] === '"') cell += text[++at];
      else quoted = false;
    } else if (letter === '"' && cell === "") quoted = true;
    else if (letter === comma) row.push(cell), (cell = "");
    else if (letter === "\n" || letter === "\r") {
      if (letter === "\r" && text[at + 1] === "\n") at++;
      all.push([...row, cell]);
      row = [];
      cell = "";
    } else cell += letter;
  }
  if (cell !== "" || row.length > 0) all.push([...row, cell]);
  return all.filter((row) => row.some((cell) => cell.trim() !== ""));
}

async function open(file) {
  const text = (await file.text()).replace(/^\ufeff/, "");
  const name = file.name.toLowerCase();
  // A text file has one text per line, whatever stands in it.
  const table = /\.(csv|tsv)$/.test(name) ? cells(text) : text.split(/\r\n|\r|\n/).map((line) => [line]);
  const wanted = areas.map((area) => area.name.toLowerCase());
  const head = (table[0] ?? []).map((cell) => cell.trim().toLowerCase());
  const places = wanted.map((name) => head.indexOf(name));
  const aliases = ["text", "sentence", "source"];
  if (wanted.length === 1 && places[0] < 0) places[0] = head.findIndex((cell) => aliases.includes(cell));
  const hasHead = places.some((place) => place >= 0);
  const lines = hasHead ? table.slice(1) : table;
  areas.forEach((area, at) => {
    const place = hasHead ? places[at] : at;
    area.value = lines.map((row) => (row[place] ?? "").replace(/\s+/g, " ").trim()).join("\n");
  });
  say(`${lines.length} rows of ${file.name}.`);
}

// Wiring.

form.addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && form.contains(event.target)) {
    event.preventDefault();
    form.requestSubmit();
  } else if (event.key === "Escape" && running) running.abort();
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.id === "cancel") running?.abort();
  else if (button.id === "clear") {
    areas.forEach((area) => (area.value = ""));
    areas[0]?.focus();
  } else if (button.id === "again") {
    const seed = [...form.elements].find(({ name }) => /(^|\.)seed$/.test(name));
    if (seed) seed.value = Math.floor(Math.random() * 2 ** 31);
    form.requestSubmit();
  } else if (button.id === "share") copy(link(), "Link");
  else if (button.id === "download") save("results.csv", "text/csv;charset=utf-8", csv());
  else if (button.id === "copy") copy(texts(), "Texts");
  else if (button.dataset.copy) copy($(button.dataset.copy).textContent, button.dataset.copy);
  else if ("example" in button.dataset) {
    const area = areas[0];
    area.value = area.value.trim() === "" ? button.textContent : `${area.value.trimEnd()}\n${button.textContent}`;
    area.focus();
  }
});
document.addEventListener("input", (event) => event.target.matches(".slider input") && judge());
$("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) open(target.files[0]).catch((error) => say(`The file cannot be read: ${error.message}`));
  target.value = "";
});
addEventListener("hashchange", restore);

reveal(document);
restore();
