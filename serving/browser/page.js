"use strict";
// What both pages share. Whatever comes from a server or a customer goes into the page as text, never as HTML.

const byId = (id) => document.getElementById(id);

/** An element with properties (of it, of its dataset, or attributes) and children, texts or elements. */
function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((each) => each !== null && each !== undefined));
  return made;
}

/** Those of a request, with the API key that was typed. */
function headers(more = {}) {
  const key = byId("key").value.trim();
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

/** A schema of the document, where it is named. */
function resolved(schema, api) {
  if (!schema || !schema.$ref) return schema || {};
  return schema.$ref.split("/").slice(1).reduce((part, name) => part[name], api);
}

/** The line that a refusal holds, as RFC 9457 has it. */
async function reasonOf(response) {
  try {
    const said = await response.json();
    return said.detail || response.statusText;
  } catch {
    return response.statusText || "no answer";
  }
}

/** Do it once more when the server says that it may answer then, as while it loads its models. */
function whenReady(response, again) {
  const seconds = response.status === 503 && Number(response.headers.get("retry-after"));
  if (seconds) setTimeout(again, 1000 * seconds);
}

function shellQuoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A command that asks a service. */
function curl(path, body) {
  const url = new URL(path.replace(/^\//, ""), document.baseURI).href;
  if (body === undefined) return `curl ${url}`;
  return `curl -H 'Content-Type: application/json' -d ${shellQuoted(JSON.stringify(body))} ${url}`;
}

function copyButton(text) {
  const button = make("button", { type: "button", className: "plain", textContent: "Copy" });
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  });
  return button;
}
