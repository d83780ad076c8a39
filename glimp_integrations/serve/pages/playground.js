"use strict";
// What is served, the last hour, and a question whose steps are coloured by their author. Texts of
// models become text nodes only, never HTML.

const $ = (id) => document.getElementById(id);
let model = "glimp";
let running = null;

function headers() {
  const key = $("key").value.trim();
  const own = { "Content-Type": "application/json" };
  return key ? { ...own, Authorization: `Bearer ${key}` } : own;
}

async function refresh() {
  let response;
  try {
    response = await fetch("status", { headers: headers() });
  } catch {
    $("served").textContent = "The server does not answer.";
    return;
  }
  $("key-section").hidden = $("key-section").hidden && response.status !== 401;
  if (!response.ok) return;
  const status = await response.json();
  const hour = status.last_hour;
  model = status.model;
  $("served").textContent =
    `${status.small} (small) and ${status.large} (large) answer as "${model}", ${status.policy}.`;
  $("replies").textContent = hour.replies;
  $("failed").textContent = hour.failed;
  $("share").textContent =
    hour.large_share === null ? "–" : `${(100 * hour.large_share).toFixed(1)} %`;
  $("cost").textContent = hour.cost === null ? "no prices" : hour.cost.toPrecision(3);
  $("running").textContent = status.running;
  $("waiting").textContent = status.waiting;
  const body = JSON.stringify({ model, messages: [{ role: "user", content: "Hello" }] });
  $("example").textContent =
    `base_url = "${new URL("v1", location.href)}"\nmodel    = "${model}"\n\n` +
    `curl ${new URL("v1/chat/completions", location.href)} \\\n` +
    `  -H 'Content-Type: application/json' \\\n  -d '${body}'`;
}

// A paragraph for each step, made when its first text comes.
class Steps {
  constructor() {
    this.steps = new Map();
    this.told = new Map();
  }

  begin(step) {
    this.told.set(step.step, step);
  }

  add(place, text, number, author) {
    const name = `${place.id} ${number}`;
    let step = this.steps.get(name);
    if (!step) {
      step = document.createElement("div");
      step.className = `step ${author ?? ""}`;
      step.dataset.author = author ?? "";
      const told = this.told.get(number);
      if (told && told.entropy !== null && place.id === "reasoning") {
        const why = document.createElement("span");
        why.className = "why";
        why.textContent = `${author}, H = ${Number(told.entropy).toFixed(2)}`;
        step.append(why);
      }
      place.append(step);
      this.steps.set(name, step);
    }
    step.append(text);
  }
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part.startsWith("data: ") && part !== "data: [DONE]") yield JSON.parse(part.slice(6));
    }
  }
}

async function ask() {
  for (const id of ["reasoning", "answer"]) $(id).replaceChildren();
  for (const id of ["totals", "error"]) $(id).textContent = "";
  $("answer-title").hidden = true;
  const threshold = $("threshold").value;
  const glimp = { steps: true, ...(threshold === "" ? {} : { threshold: Number(threshold) }) };
  const messages = [{ role: "user", content: $("question").value }];
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: headers(),
    signal: running.signal,
    body: JSON.stringify({ model, messages, stream: true, glimp }),
  });
  if (!response.ok) throw new Error((await response.json()).error.message);
  const steps = new Steps();
  for await (const chunk of events(response)) {
    if (chunk.error) throw new Error(chunk.error.message);
    const { delta, finish_reason } = chunk.choices[0] ?? { delta: {} };
    const told = chunk.glimp ?? {};
    if ("entropy" in told) steps.begin(told);
    for (const [field, id] of [["reasoning_content", "reasoning"], ["content", "answer"]]) {
      if (!delta[field]) continue;
      if (id === "answer") $("answer-title").hidden = false;
      steps.add($(id), delta[field], told.step, told.author);
    }
    if (finish_reason) {
      const cost = told.cost === null ? "" : `, cost ${told.cost.toPrecision(3)}`;
      $("totals").textContent =
        `${told.steps} steps in ${told.seconds.toFixed(1)} s; the large model wrote ` +
        `${(100 * told.large_share).toFixed(0)} % of the tokens${cost}.`;
    }
  }
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  running?.abort();
  const own = (running = new AbortController());
  $("ask").disabled = true;
  $("stop").disabled = false;
  try {
    await ask();
  } catch (error) {
    if (error.name !== "AbortError") $("error").textContent = error.message;
  }
  if (running === own) {
    $("ask").disabled = false;
    $("stop").disabled = true;
    refresh();
  }
});
$("stop").addEventListener("click", () => running?.abort());
$("key").addEventListener("change", refresh);
refresh();
setInterval(() => document.hidden || refresh(), 5000);
