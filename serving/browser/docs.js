// The page that documents: draws the OpenAPI of this server.

/** The kind of values that a schema takes, in words. */
function kindOf(given, api) {
  const schema = resolved(given, api);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.title) return schema.title;
  if (schema.enum && schema.enum.length > 8) return `one of ${schema.enum.length} texts`;
  if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(" or ");
  if (schema.anyOf) return [...new Set(schema.anyOf.map((each) => kindOf(each, api)))].join(" or ");
  if (schema.prefixItems) return `[${schema.prefixItems.map((each) => kindOf(each, api)).join(", ")}]`;
  if (schema.type === "array") return `list of ${kindOf(schema.items, api)}`;
  if (schema.type === "object" && schema.additionalProperties?.type && !schema.properties)
    return `object of ${kindOf(schema.additionalProperties, api)}`;
  return { string: "text", integer: "whole number", boolean: "true or false", null: "null" }[schema.type] || schema.type || "anything";
}

/** A text whose parts between backticks are code. */
function inCode(text) {
  return text.split("`").map((each, place) => (place % 2 ? make("code", { textContent: each }) : each));
}

/** The limits of a schema, in words. */
function limitsOf(schema) {
  const all = [schema, ...(schema.anyOf || [])];
  const first = (name) => all.map((each) => each[name]).find((each) => each !== undefined);
  const said = [];
  const add = (name, words) => first(name) !== undefined && said.push(`${words} ${first(name)}`);
  add("minimum", "at least");
  add("exclusiveMinimum", "above");
  add("maximum", "at most");
  if (schema.type === "array") add("maxItems", "at most");
  if (schema.default !== undefined) said.push(`default ${JSON.stringify(schema.default)}`);
  return said;
}

/** The objects inside a schema, whose fields are drawn below it. */
function objectsIn(given, api) {
  const schema = resolved(given, api);
  const inside = [...(schema.anyOf || []), ...(schema.items ? [schema.items] : [])].flatMap((each) => objectsIn(each, api));
  return schema.properties ? [schema, ...inside] : inside;
}

function properties(given, api, depth = 0) {
  const schema = resolved(given, api);
  const required = new Set(schema.required || []);
  const shown = Object.entries(schema.properties || {}).filter(([, each]) => each.description !== "without effect");
  shown.sort(([one], [two]) => required.has(two) - required.has(one));
  return make("ul", { className: "properties" }, ...shown.map(([name, each]) => {
    const field = resolved(each, api);
    const inside = depth < 3 && Object.keys(field.properties || {}).length <= 12 ? objectsIn(field, api) : [];
    const limits = limitsOf(field);
    return make(
      "li",
      {},
      make("code", { className: "name", textContent: name }),
      make("span", { className: "quiet", textContent: ` ${kindOf(field, api)}${limits.length ? `, ${limits.join(", ")}` : ""} ` }),
      required.has(name) ? make("span", { className: "must", textContent: "always" }) : null,
      field.description ? make("div", { textContent: field.description }) : null,
      ...inside.map((part) => properties(part, api, depth + 1)),
    );
  }));
}

function part(title, ...children) {
  return make("div", { className: "part" }, make("h3", { textContent: title }), ...children);
}

function command(path, operation) {
  const body = operation.requestBody?.content["application/json"].example;
  const text = curl(path, body);
  const head = make("div", { className: "head" }, make("h3", { textContent: "Command" }), copyButton(text));
  return make("div", { className: "part" }, head, make("pre", { textContent: text }));
}

function answers(operation, api) {
  const { 200: answer, ...failures } = operation.responses;
  const content = Object.entries(answer.content);
  const drawn = content.map(([kind, { schema }]) =>
    part(`Answer 200, ${kind}`, make("p", {}, ...inCode(schema.description || "")), properties(schema, api)),
  );
  const [[kind]] = Object.values(failures).map((each) => Object.keys(each.content));
  const list = Object.entries(failures).map(([status, { description }]) =>
    make("li", {}, make("code", { className: "name", textContent: status }), ` ${description}`),
  );
  return [...drawn, part(`Errors, ${kind}`, make("ul", { className: "properties" }, ...list))];
}

function route(path, method, operation, api) {
  const body = operation.requestBody && resolved(operation.requestBody.content["application/json"].schema, api);
  const asked = make("div", { className: "part" }, command(path, operation));
  if (body) asked.append(part("Body", properties(body, api)));
  const inside = make("div", { className: "inside" }, asked, make("div", { className: "part" }, ...answers(operation, api)));
  const summary = make(
    "summary",
    {},
    make("span", { className: `method ${method}`, textContent: method }),
    make("span", { className: "path", textContent: path }),
    make("span", { className: "quiet", textContent: operation.summary }),
  );
  return make("div", { className: "card route" }, make("details", {}, summary, inside));
}

function group(tag, api) {
  const routes = Object.entries(api.paths).flatMap(([path, item]) =>
    Object.entries(item).filter(([, operation]) => operation.tags.includes(tag.name)).map(([method, operation]) => route(path, method, operation, api)),
  );
  const title = make("h2", { textContent: tag.name, id: tag.name });
  const head = make("div", {}, title, make("p", { className: "quiet", textContent: tag.description }));
  return make("section", { className: "routes" }, head, ...routes);
}

async function load() {
  try {
    const response = await fetch("openapi.json", { headers: headers() });
    if (!response.ok) {
      whenReady(response, load);
      throw new Error(await reasonOf(response));
    }
    byId("trouble").hidden = true;
    const api = await response.json();
    byId("lead").textContent = api.info.description;
    byId("routes").replaceChildren(...api.tags.map((tag) => group(tag, api)));
    byId("routes").querySelector("details")?.setAttribute("open", "");
  } catch (error) {
    byId("trouble").textContent = error instanceof TypeError ? "The server does not answer." : error.message;
    byId("trouble").hidden = false;
  }
}
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  load();
});
load();
