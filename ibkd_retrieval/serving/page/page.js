// Everything that comes from documents reaches the page as text, never as markup.

const form = document.getElementById("ask");
const query = document.getElementById("query");
const count = document.getElementById("count");
const problem = document.getElementById("problem");
const status = document.getElementById("status");
const answers = document.getElementById("answers");

const COUNTS = [5, 10, 20, 50, 100];
const number = new Intl.NumberFormat("en");
let described = new Map();
let underWay = null;
let address = null;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function milliseconds(value) {
  return `${value < 10 ? value.toFixed(2) : value.toFixed(1)} ms`;
}

function bar(share) {
  const inside = element("span");
  inside.style.width = `${100 * share}%`;
  return element("span", { class: "bar", "aria-hidden": "true" }, inside);
}

// Matches count characters, of which JavaScript's strings cut some in two.
function passage({ text, matches }) {
  const characters = Array.from(text);
  const shown = element("p");
  let done = 0;
  for (const [start, end] of matches) {
    shown.append(characters.slice(done, start).join(""));
    shown.append(element("mark", {}, characters.slice(start, end).join("")));
    done = end;
  }
  shown.append(characters.slice(done).join(""));
  return shown;
}

function movement(hit, place, indexes) {
  const first = indexes[0].index;
  const elsewhere = indexes.some((other, at) => at !== place && other.hits.some(({ id }) => id === hit.id));
  if (indexes.length > 1 && !elsewhere) return element("span", { class: "moved alone" }, "+ only here");
  if (place === 0) return "";
  if (hit.moved === null) return element("span", { class: "moved alone" }, `+ not in ${first}`);
  if (hit.moved === 0) return element("span", { class: "moved" }, "= same rank");
  const up = hit.moved > 0;
  const steps = Math.abs(hit.moved);
  return element(
    "span",
    { class: `moved ${up ? "up" : "down"}` },
    `${up ? "▲" : "▼"} ${steps} `,
    element("span", { class: "aside" }, `${steps === 1 ? "rank" : "ranks"} ${up ? "higher" : "lower"} than in ${first}`),
  );
}

function whole(hit) {
  const inside = [element("p", { class: "whole" }, hit.text)];
  const fields = Object.entries(hit.fields ?? {});
  if (fields.length) {
    inside.push(element("dl", {}, ...fields.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))])));
  }
  return element("details", {}, element("summary", {}, "Whole text", element("span", { class: "aside" }, ` of ${hit.id}`)), ...inside);
}

function hitOf(hit, place, indexes) {
  const shown = element(
    "li",
    { class: "hit", "data-id": hit.id },
    element("h3", {}, element("span", { class: "rank" }, `${hit.rank}. `), hit.title || hit.id),
    element("p", { class: "facts" }, element("span", {}, `score ${hit.score.toFixed(4)}`), element("span", {}, hit.id), movement(hit, place, indexes)),
  );
  if (hit.passage?.text) shown.append(passage(hit.passage));
  if (hit.text.length > (hit.passage?.text.length ?? 0) || hit.fields) shown.append(whole(hit));
  return shown;
}

function answerOf(answer, place, indexes) {
  const slowest = Math.max(...indexes.map((each) => each.milliseconds), 0.001);
  const about = described.get(answer.index);
  const encoding = answer.encoding_milliseconds;
  const parts = encoding === null ? [] : [`encoding ${milliseconds(encoding)}, searching ${milliseconds(answer.milliseconds - encoding)}`];
  if (answer.batch > 1) parts.push(`shared by ${answer.batch} queries`);
  const head = element("header", {}, element("h2", { id: `index-${place}` }, answer.index));
  if (about) head.append(element("p", {}, `${about.encoder} · ${about.dimensions} dimensions · ${about.type} · ${number.format(about.documents)} documents`));
  head.append(
    element(
      "p",
      { class: "time" },
      element("strong", {}, milliseconds(answer.milliseconds)),
      bar(answer.milliseconds / slowest),
    ),
    element("p", {}, parts.join("; ") || " "),
  );
  if (answer.overlap) head.append(element("p", {}, `overlap@${answer.overlap.depth} with ${indexes[0].index}: ${answer.overlap.share.toFixed(2)}`));
  const list = answer.hits.length ? element("ol", {}, ...answer.hits.map((hit) => hitOf(hit, place, indexes))) : element("p", { class: "none" }, "Nothing found.");
  return element("section", { class: "answer", "aria-labelledby": `index-${place}` }, head, list);
}

function summary({ indexes }) {
  if (indexes.length === 1) return `${indexes[0].hits.length} documents in ${milliseconds(indexes[0].milliseconds)}.`;
  return indexes
    .slice(1)
    .map(({ index, overlap: { depth, share } }) => `${Math.round(depth * share)} of the first ${depth} documents of ${index} are among the first ${depth} of ${indexes[0].index}: overlap@${depth} ${share.toFixed(2)}.`)
    .join(" ");
}

function nameIndexes(shown) {
  const names = [...described.keys()].map(shown);
  document.getElementById("indexes").replaceChildren(...names.flatMap((name, place) => (place ? [" · ", name] : [name])));
}

function complain(sentence) {
  problem.textContent = sentence;
  problem.hidden = !sentence;
}

async function search() {
  underWay?.abort();
  address = location.search;
  const asking = (underWay = new AbortController());
  complain("");
  status.textContent = "Searching…";
  answers.classList.add("waiting");
  try {
    const response = await fetch("/search", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ query: query.value, k: Number(count.value), passages: true }),
      signal: asking.signal,
    });
    const found = await response.json();
    if (!response.ok) throw new Error(found.error);
    answers.replaceChildren(...found.indexes.map(answerOf));
    nameIndexes((index, place) => element("a", { href: `#index-${place}` }, index));
    status.textContent = summary(found);
    document.title = `${query.value} · ibkd-retrieval`;
  } catch (error) {
    if (error.name === "AbortError") return;
    answers.replaceChildren();
    status.textContent = "";
    complain(error instanceof TypeError ? "The server does not answer. Is it still running?" : error.message);
  }
  answers.classList.remove("waiting");
}

// The address holds the question, so that it can be kept, sent, and gone back to.
function readAddress() {
  const asked = new URLSearchParams(location.search);
  query.value = asked.get("q") ?? "";
  if ([...count.options].some(({ value }) => value === asked.get("k"))) count.value = asked.get("k");
  if (query.value.trim()) search();
  else {
    underWay?.abort();
    address = location.search;
    answers.replaceChildren();
    status.textContent = "";
  }
}

function pointOut(event) {
  const id = event.type === "mouseout" || event.type === "focusout" ? null : event.target.closest(".hit")?.dataset.id;
  const shown = [...answers.querySelectorAll(".hit")];
  const twins = shown.filter((hit) => hit.dataset.id === id);
  for (const hit of shown) hit.classList.toggle("same", twins.length > 1 && twins.includes(hit));
}

async function start() {
  let most = 10;
  try {
    const health = await (await fetch("/healthz")).json();
    described = new Map(health.indexes.map((index) => [index.index, index]));
    nameIndexes((index) => index);
    query.maxLength = health.longest_query;
    most = health.largest_k;
  } catch {
    complain("The server does not answer. Is it still running?");
  }
  const offered = COUNTS.filter((each) => each <= most);
  for (const each of offered.length ? offered : [most]) count.append(element("option", { value: each }, String(each)));
  if (most >= 10) count.value = "10";
  readAddress();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!query.value.trim()) return;
  history.pushState(null, "", `?${new URLSearchParams(new FormData(form))}`);
  search();
});
addEventListener("popstate", () => {
  if (location.search !== address) readAddress();
});
for (const kind of ["mouseover", "mouseout", "focusin", "focusout"]) answers.addEventListener(kind, pointOut);
start();
