// The page that asks: what a service takes is read from GET /v1/models and from its OpenAPI, never from its task.

const MOST_BARS = 5;
const OWN = new Set(["inputs", "fields", "scores", "details", "stream"]); // of a body, that the page fills in itself
let models = [];
let api = { paths: {} };
let asking = new AbortController();

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(2) : ms.toFixed(0)} ms`;
const chosen = () => models.find((each) => each.service === byId("service").value);
const CANDIDATE = "candidate version"; // of the service itself; no service has a name with a space

/** Whom to ask beside the chosen service: another one, or its own candidate. */
function asked() {
  const [entry, value] = [chosen(), byId("beside").hidden ? "" : byId("other").value];
  if (value === CANDIDATE) return [entry.version, entry.candidate.version].map((version) => ({ ...entry, asked: version }));
  return [entry, models.find((each) => each.service === value)].filter(Boolean);
}

/** The fields of a service's body, as its OpenAPI has them. */
function fieldsOf(service) {
  const route = api.paths[`/v1/${service}`];
  return route ? resolved(route.post.requestBody.content["application/json"].schema, api).properties : {};
}

function trouble(text) {
  byId("trouble").textContent = text;
  byId("trouble").hidden = !text;
}

async function load() {
  try {
    const [listed, described] = await Promise.all(["v1/models", "openapi.json"].map((path) => fetch(path, { headers: headers() })));
    if (listed.status === 401 || listed.status === 403) return wantKey(await reasonOf(listed));
    for (const each of [listed, described]) {
      if (each.ok) continue;
      whenReady(each, load);
      return trouble(await reasonOf(each));
    }
    models = (await listed.json()).models;
    api = await described.json();
    trouble(models.length ? "" : "No service runs here yet.");
  } catch {
    return trouble("The server does not answer.");
  }
  const wanted = decodeURIComponent(location.hash.slice(1));
  byId("service").replaceChildren(...models.map((each) => new Option(each.service)));
  if (models.some((each) => each.service === wanted)) byId("service").value = wanted;
  byId("running").replaceChildren(...models.map(running));
  byId("send").disabled = !models.length;
  if (models.length) show();
}

function wantKey(reason) {
  trouble(reason);
  byId("key-part").open = true;
  byId("key").focus();
}

/** What is tried beside the model of a service, in words. */
function tried({ candidate }) {
  if (!candidate) return null;
  const share = candidate.share ? `answers ${candidate.share} % of the requests` : "is asked, unseen";
  return make("span", { className: "chip hold", textContent: `candidate version ${candidate.version} ${share}` });
}

function running(entry) {
  const choose = make("button", { type: "button", className: "plain", textContent: "Ask", ariaLabel: `Ask ${entry.service}` });
  choose.addEventListener("click", () => {
    byId("service").value = entry.service;
    show();
    byId("inputs").querySelector("textarea").focus();
  });
  const figures = Object.entries(entry.evidence ?? {}).map(([name, value]) => `${name} ${Number(value.toPrecision(3))}`);
  const since = entry.created ? `since ${new Date(1000 * entry.created).toLocaleString()}` : "";
  return make(
    "li",
    {},
    make("span", { className: "grow" }, make("strong", { textContent: entry.service }), ` ${entry.name}, ${entry.task}`),
    make("span", { className: "chip good", textContent: `version ${entry.version}` }),
    tried(entry),
    make("span", { className: "quiet", textContent: [since, ...figures].filter(Boolean).join(", ") }),
    choose,
  );
}

function chipsOf(entry) {
  const said = [`${entry.name}, version ${entry.version}`];
  if (entry.kind !== "single") said.push(entry.kind);
  if (entry.labels) said.push(`${entry.labels.length} labels`);
  if (entry.max_length) said.push(`${entry.max_length} tokens`);
  if (entry.checked) said.push("checked texts");
  return said.map((text, place) => make("span", { className: place ? "chip" : "chip good", textContent: text }));
}

/** Draws the form of the chosen service; what was typed stays where it has a place. */
function show() {
  const entry = chosen();
  const typed = [...byId("inputs").querySelectorAll("textarea")].map((each) => [each.id, each.value]);
  history.replaceState(null, "", `#${encodeURIComponent(entry.service)}`);
  byId("about").replaceChildren(...[...chipsOf(entry), tried(entry)].filter(Boolean));
  const alike = models.filter((each) => each.service !== entry.service && takes(each) === takes(entry));
  const choices = alike.map((each) => new Option(each.service));
  if (entry.candidate) choices.unshift(new Option(`its candidate, version ${entry.candidate.version}`, CANDIDATE));
  byId("beside").hidden = !choices.length;
  const before = byId("other").value;
  byId("other").replaceChildren(new Option("nothing", ""), ...choices);
  byId("other").value = choices.some((each) => each.value === before) ? before : "";
  byId("inputs").replaceChildren(...inputsOf(entry));
  for (const [id, text] of typed) if (byId(id)) byId(id).value = text;
  const options = Object.entries(fieldsOf(entry.service)).filter(([name]) => !OWN.has(name));
  byId("options").replaceChildren(...options.map(option));
  byId("more").hidden = !options.length;
}

const takes = (entry) => [entry.pairs, entry.attributes].join();

function inputsOf(entry) {
  const parts = entry.pairs ? ["Text", "Second text"] : [entry.attributes ? "Product" : "Text"];
  const drawn = parts.map((title, place) => written(`input-${place}`, title, "", place ? "short" : ""));
  if (entry.attributes) drawn.unshift(ways([...drawn]));
  if (fieldsOf(entry.service).fields) {
    const example = (entry.fields || []).slice(0, 3).map((name) => `${name}: 12`);
    drawn.push(written("fields", "Values for the reply, one name: value a line", example.join("\n") || "order number: 12", "short"));
  }
  return drawn;
}

function written(id, title, placeholder, className) {
  return make(
    "div",
    { className: "field" },
    make("label", { htmlFor: id, textContent: title }),
    make("textarea", { id, placeholder, className }),
  );
}

/** A product is a text, or lines of attributes. */
function ways(areas) {
  const radio = (id, text, placeholder) => {
    const button = make("input", { type: "radio", name: "way", id });
    button.addEventListener("change", () => {
      for (const each of areas) each.querySelector("textarea").placeholder = placeholder;
    });
    return make("label", {}, button, text);
  };
  const made = make("div", { className: "ways", role: "radiogroup", ariaLabel: "How it is given" });
  made.append(radio("as-lines", "name: value lines", "name: Apollo\ninch: 40"), radio("as-text", "one text", ""));
  const lines = made.querySelector("input");
  lines.checked = true;
  for (const each of areas) each.querySelector("textarea").placeholder = "name: Apollo\ninch: 40";
  return made;
}

function option([name, schema]) {
  const id = `option-${name}`;
  const among = schema.enum || [];
  const kinds = [schema, ...(schema.anyOf || [])].map((each) => each.type);
  const isNumber = kinds.includes("number") || kinds.includes("integer");
  const control = among.length
    ? make("select", { id }, new Option("", ""), ...among.filter((each) => each !== null).map((each) => new Option(each)))
    : make("input", { id, type: isNumber ? "number" : "text", step: "any" });
  if (schema.default !== undefined && !among.length) control.placeholder = String(schema.default);
  const about = make("p", { className: "quiet", id: `${id}-about`, textContent: schema.description || "" });
  control.setAttribute("aria-describedby", about.id);
  control.dataset.option = name;
  return make("div", { className: "field" }, make("label", { htmlFor: id, textContent: name }), control, about);
}

/** An object out of lines `name: value`; a name that comes again has a list of values. */
function attributes(text) {
  const found = new Map();
  for (const line of text.split("\n").filter((each) => each.trim())) {
    const [name, ...rest] = line.split(":");
    if (!rest.length) throw new Error(`“name: value” is one line of a product; a line without a colon is none`);
    found.set(name.trim(), [...(found.get(name.trim()) || []), rest.join(":").trim()]);
  }
  return Object.fromEntries([...found].map(([name, values]) => [name, values.length > 1 ? values : values[0]]));
}

/** What is sent to a service; options that it does not have are left out. */
function bodyFor(entry) {
  const fields = fieldsOf(entry.service);
  const asLines = byId("as-lines")?.checked;
  const parts = [...byId("inputs").querySelectorAll("textarea[id^=input-]")].map((each) =>
    asLines ? attributes(each.value) : each.value,
  );
  const body = { inputs: [entry.pairs ? { text: parts[0], text_pair: parts[1] } : parts[0]] };
  for (const name of ["scores", "details", "stream"]) if (fields[name]) body[name] = true;
  if (fields.fields && byId("fields")?.value.trim()) body.fields = attributes(byId("fields").value);
  for (const control of byId("options").querySelectorAll("[data-option]")) {
    const name = control.dataset.option;
    if (control.value !== "" && fields[name]) body[name] = control.type === "number" ? Number(control.value) : control.value;
  }
  return body;
}

async function send() {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const entries = asked();
  const cards = entries.map(newCard);
  byId("answers").replaceChildren(...cards.map((each) => each.root));
  byId("answers").setAttribute("aria-busy", "true");
  for (const [place, entry] of entries.entries()) await ask(entry, cards[place], signal); // in turns: none slows another
  if (!signal.aborted) byId("answers").removeAttribute("aria-busy");
}

function newCard(entry) {
  const version = make("span", { className: "quiet", textContent: "waiting" });
  const body = make("div", { className: "part" });
  const root = make("article", { className: "card" });
  root.append(make("div", { className: "head" }, make("h2", { textContent: entry.service }), version), body);
  return { root, body, version };
}

async function ask(entry, card, signal) {
  const began = performance.now();
  try {
    const body = bodyFor(entry);
    const response = await fetch(`v1/${entry.service}`, {
      method: "POST",
      headers: headers({ "Content-Type": "application/json", ...(entry.asked && { "X-Model-Version": entry.asked }) }),
      body: JSON.stringify(body),
      signal,
    });
    if (!response.ok) return refused(card, response, await reasonOf(response));
    const isStream = (response.headers.get("content-type") || "").startsWith("text/event-stream");
    const came = isStream ? await streamed(response, card, began) : await response.json();
    const all = performance.now() - began;
    draw(card, entry, body, came, all);
  } catch (error) {
    if (!signal.aborted) problem(card, error instanceof TypeError ? "The server does not answer." : error.message);
  }
}

function refused(card, response, reason) {
  problem(card, reason, response.status);
  if (response.status === 401) wantKey(reason);
}

function problem(card, reason, status) {
  card.version.textContent = status ? `status ${status}` : "";
  card.body.replaceChildren(make("p", { className: "problem", textContent: reason }));
}

/** Shows a text while it is written; gives what an answer at once would have said. */
async function streamed(response, card, began) {
  const text = make("p", { className: "text-said" });
  card.body.replaceChildren(text);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let first = null;
  let last = {};
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const each of events) {
      const said = JSON.parse(each.slice(each.indexOf("data: ") + 6));
      if (each.startsWith("event: error")) throw new Error(said.detail);
      first ??= performance.now() - began;
      text.append(said.text);
      last = said;
    }
  }
  const { model, usage, index, ...more } = last;
  return { model, usage, first, predictions: [{ ...more, text: text.textContent }] };
}

/** A prediction by what it holds. */
function draw(card, entry, body, came, all) {
  const [said] = came.predictions;
  const who = entry.candidate && (came.model.version === entry.candidate.version ? "candidate, " : "champion, ");
  card.version.textContent = `${who || ""}${came.model.name}, version ${came.model.version}`;
  const shown = [];
  if (said.handover !== undefined)
    shown.push(chip(said.handover ? "handed over to a person" : "answered", said.handover ? "hold" : "good"));
  if (said.held !== undefined) shown.push(chip(said.held ? "held back" : "passed the checks", said.held ? "hold" : "good"));
  if (said.reason) shown.push(make("p", { textContent: said.reason }));
  const label = said.label ?? said.intent;
  if (said.text) shown.push(make("p", { className: "text-said", textContent: said.text }));
  if (said.label) shown.push(make("p", { className: "label-said", textContent: said.label }));
  const scores = Object.entries(said.scores || (label === undefined ? {} : { [label]: said.score }));
  scores.sort((one, two) => two[1] - one[1]);
  if (scores.length) shown.push(bars(scores.slice(0, MOST_BARS)));
  if (scores.length > MOST_BARS) shown.push(folded(`All ${scores.length} labels`, bars(scores)));
  shown.push(facts(said, came, all));
  shown.push(folded("Request and answer as JSON", asJson(entry, body, came)));
  card.body.replaceChildren(...shown);
}

const chip = (text, kind) => make("div", { className: "chips" }, make("span", { className: `chip ${kind}`, textContent: text }));
const folded = (title, inside) => make("details", {}, make("summary", { textContent: title }), inside);

function bars(scores) {
  return make("ul", { className: "scores" }, ...scores.map(([label, score]) => {
    const filled = make("i");
    filled.style.width = `${100 * score}%`;
    const number = make("span", { className: "number", textContent: percent(score) });
    const bar = make("span", { className: "bar", ariaHidden: "true" }, filled);
    return make("li", {}, make("span", { textContent: label }), number, bar);
  }));
}

function facts(said, came, all) {
  const told = [];
  if (said.ms !== undefined) told.push(["Time in the model", milliseconds(said.ms)]);
  if (came.first) told.push(["First piece after", milliseconds(came.first)]);
  told.push(["Time in all", milliseconds(all)]);
  if (came.usage) told.push(["Tokens read, written", `${came.usage.prompt_tokens}, ${came.usage.completion_tokens}`]);
  if (said.finish_reason) told.push(["Ended by", said.finish_reason === "stop" ? "the model" : "the limit of tokens"]);
  if (said.unknown !== undefined) told.push(["Unknown tokens", percent(said.unknown)]);
  if (said.cut) told.push(["Read", "the beginning alone: the text is too long"]);
  return make("dl", { className: "facts" }, ...told.map(([name, value]) =>
    make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value })),
  ));
}

function asJson(entry, body, came) {
  const { first, ...answer } = came;
  const command = curl(`v1/${entry.service}`, body);
  return make(
    "div",
    { className: "part" },
    make("div", { className: "head" }, make("span", { className: "quiet", textContent: "Command" }), copyButton(command)),
    make("pre", { textContent: command }),
    make("pre", { textContent: JSON.stringify(answer, null, 2) }),
  );
}

byId("service").addEventListener("change", show);
byId("key").addEventListener("change", load);
byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (models.length) send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    byId("form").requestSubmit();
  }
});
load();
