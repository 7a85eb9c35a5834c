/* The playground: what it sends is what fal's clients send, over this server's own routes. */

const $ = (id) => document.getElementById(id);
const all = (query) => [...document.querySelectorAll(query)];
const on = (target, names, act) => names.split(" ").forEach((name) => target.addEventListener(name, act));
const root = new URL(".", location.href).href;
const about = { app: "fal-ai/latentsync", open: false };
const FIELDS = ["video_url", "audio_url", "guidance_scale", "seed", "loop_mode", "key", "run"];

const megabytes = (bytes) => (bytes < 1e5 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
const seconds = (job) => `${((performance.now() - job.began) / 1000).toFixed(1)} s`;
const clock = (time) => `${Math.floor(time / 60)}:${(time % 60).toFixed(1).padStart(4, "0")}`;
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1).replace(/([^.!?])$/, "$1.");
const length = (video) => video.duration || 0;

/** What ends a run: pairs of a field and what is wrong with it. Without any, it was cancelled. */
class Failure extends Error {
  constructor(...problems) {
    super(problems.join("; "));
    this.problems = problems;
  }
}

/** Asks a zone of this server: with the key, or where the server lends browsers one, by the route that adds it. */
function ask(zone, path, options = {}) {
  const headers = options.body ? { "Content-Type": "application/json" } : {};
  if (about.open) headers["x-fal-target-url"] = `https://${zone === "rest" ? "rest.fal.ai" : "queue.fal.run"}/${path}`;
  else headers.Authorization = `Key ${$("key").value.trim()}`;
  return fetch(root + (about.open ? "api/fal/proxy" : `${zone}/${path}`), { ...options, headers });
}

/** The body of a good answer. Raises what a bad one says; `field` is what it is about when it names none. */
async function answer(response, field = "run") {
  const body = await response.json().catch(() => null);
  if (response.ok && body) return body;
  if (body?.error_type === "client_cancelled") throw new Failure();
  const detail = body?.detail ?? `the server answered ${response.status} ${response.statusText}`;
  if (response.status === 401) throw new Failure([about.open ? "run" : "key", "This server does not know that key."]);
  if (response.status === 429) throw new Failure(["run", `Too many requests at a time. ${sentence(detail)}`]);
  if (Array.isArray(detail)) throw new Failure(...detail.map((each) => [String(each.loc?.at(-1)), sentence(each.msg)]));
  throw new Failure([field, sentence(detail)]);
}

/** A file of this server at the page's own address: behind a proxy it may hand out another. */
const here = (url) => root + url.slice(url.search(/\/(files|uploads)\//) + 1);

/** Sends a file. Without fetch(), which cannot tell how far an upload is. */
function put(url, file, job, field) {
  return new Promise((done, fail) => {
    const request = new XMLHttpRequest();
    job.abort = () => request.abort();
    request.open("PUT", here(url));
    request.setRequestHeader("Content-Type", file.type || "application/octet-stream");
    request.upload.onprogress = (event) => say($("state").textContent, event.loaded / event.total);
    request.onload = () => answer(new Response(request.response || "{}", { status: request.status }), field).then(done, fail);
    request.onerror = () => fail(new Failure([field, "The upload broke off. Is the file very large?"]));
    request.onabort = () => fail(new Failure());
    request.send(file);
  });
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) if (block.startsWith("data: ")) yield JSON.parse(block.slice(6));
  }
}

const inOrder = all(".slot").map(makeSlot);
const slots = { video: inOrder[0], audio: inOrder[1] };

function makeSlot(part) {
  const kind = part.dataset.kind;
  const [text, file, player] = ["[type=url]", "[type=file]", kind].map((query) => part.querySelector(query));
  const slot = { part, text, player, noun: part.dataset.noun, field: `${kind}_url`, file: null, uploaded: "", shown: "" };
  on(file, "change", () => choose(slot, file.files[0]));
  on(text, "input", () => choose(slot, null, text.value));
  on(player, "error", () => part.classList.add("unplayable"));
  on(part.querySelector(".file button"), "click", () => (choose(slot, null), file.focus()));
  on(part, "dragover dragleave drop", ({ type }) => part.classList.toggle("over", type === "dragover"));
  return slot;
}

/** Fills a slot with a file or a URL, or empties it. */
function choose(slot, file, url = "") {
  const { part } = slot;
  const ours = url.startsWith(root) ? url : ""; // the page may load media from nowhere else
  URL.revokeObjectURL(slot.shown);
  Object.assign(slot, { file, uploaded: "", shown: file ? URL.createObjectURL(file) : ours });
  slot.text.value = url;
  if (!file) part.querySelector("[type=file]").value = "";
  part.querySelector(".chosen").hidden = !slot.shown;
  part.querySelector(".drop").hidden = Boolean(slot.shown);
  part.querySelector(".name").textContent = file?.name ?? url.split("/").at(-1);
  part.querySelector(".size").textContent = file ? megabytes(file.size) : "";
  part.classList.remove("unplayable");
  slot.player.src = slot.shown;
  blame(slot.field, "");
  showCode();
}

/** Files dropped anywhere: one on a slot is that slot's, others go by what they are. */
function drop(event) {
  const files = [...event.dataTransfer.files];
  if (files.length) event.preventDefault(); // the browser would leave the page and open the file
  const aim = event.target.closest?.(".slot")?.dataset.kind;
  for (const file of files) {
    const own = Object.keys(slots).find((kind) => file.type.startsWith(`${kind}/`));
    choose(slots[(files.length === 1 && aim) || own || aim || "video"], file);
  }
}

/** The endpoint's input, without what is at its default; `unsent` is the URL of a file that has none yet. */
function input(unsent) {
  const body = {};
  for (const slot of inOrder) body[slot.field] = slot.file ? slot.uploaded || unsent(slot) : slot.text.value.trim();
  const seed = $("seed").value.trim();
  if ($("guidance_scale").value !== "1") body.guidance_scale = Number($("guidance_scale").value);
  if (seed) body.seed = Number.isSafeInteger(Number(seed)) ? Number(seed) : seed; // the server reads digits in quotes too
  const [{ value: mode }] = all("[name=loop]:checked");
  return mode === "pingpong" ? body : { ...body, loop_mode: mode };
}

/** What can be seen to be wrong before anything is sent. */
function check() {
  const missing = inOrder.filter((slot) => !slot.file && !slot.text.value.trim());
  const problems = missing.map((slot) => [slot.field, `Choose ${slot.noun} or paste its URL.`]);
  if (!/^([+-]?\d+)?$/.test($("seed").value.trim())) problems.push(["seed", "A seed is a whole number, such as 42."]);
  if (!about.open && !/^[\x21-\x7e]+$/.test($("key").value.trim())) problems.push(["key", "Enter a key of this server."]);
  if (problems.length) throw new Failure(...problems);
}

/** Puts a message to its field, or takes it away. */
function blame(field, message) {
  $(`${field}-error`).textContent = message;
  $(field).setAttribute("aria-invalid", Boolean(message));
}

function report(error) {
  const problems = error.problems ?? [["run", `The server cannot be reached (${error.message}).`]];
  for (const [field, message] of problems) blame(FIELDS.includes(field) ? field : "run", message);
  for (const slot of inOrder) if ($(slot.field).ariaInvalid === "true") slot.uploaded = ""; // it may be gone there
  $(FIELDS.find((field) => $(field).ariaInvalid === "true")).focus();
}

let current = null;
const path = (job) => `${about.app}/requests/${job.id}`;

async function run() {
  const job = { began: performance.now(), id: "", cancelled: false, cost: "-", before: slots.video.file ?? slots.video.shown };
  FIELDS.forEach((field) => blame(field, ""));
  try {
    check();
    begin(job);
    for (const slot of inOrder) if (slot.file && !slot.uploaded) await upload(job, slot);
    if (job.cancelled) throw new Failure();
    say("Sending the request");
    job.id = (await answer(await ask("queue", about.app, { method: "POST", body: JSON.stringify(input()) }))).request_id;
    if (job.cancelled) cancel();
    await follow(job);
    const response = await ask("queue", path(job));
    show(job, (await answer(response)).video, response.headers.get("x-latentsync-seed"));
  } catch (error) {
    const cancelled = error.problems?.length === 0;
    if (current) say(cancelled ? "Cancelled" : "It did not work");
    if (!cancelled) report(error);
  }
  current = null;
  clearInterval(job.clock);
  $("bar").hidden = $("cancel").hidden = true;
  $("run").disabled = $("cancel").disabled = false;
}

function begin(job) {
  current = job;
  for (const id of ["empty", "result", "logs"]) $(id).hidden = true;
  for (const id of ["progress", "bar", "cancel"]) $(id).hidden = false;
  $("logs").open = $("run").disabled = true;
  $("log").replaceChildren();
  job.clock = setInterval(() => ($("elapsed").textContent = seconds(job)), 100);
  if (innerWidth <= 880) $("output").scrollIntoView();
}

async function upload(job, slot) {
  const { file, field } = slot;
  say(`Uploading the ${field.slice(0, 5)}, ${megabytes(file.size)}`, 0);
  const body = JSON.stringify({ file_name: file.name, content_type: file.type || "application/octet-stream" });
  const { upload_url, file_url } = await answer(await ask("rest", "storage/upload/initiate", { method: "POST", body }), field);
  if (job.cancelled) throw new Failure();
  await put(upload_url, file, job, field);
  if (slot.file !== file) throw new Failure([field, "You chose another one meanwhile. Run again."]);
  slot.uploaded = file_url;
  showCode();
}

/** Until the request is completed. Its stream may break off, as when the server restarts. */
async function follow(job) {
  for (let failures = 0; ; await new Promise((done) => setTimeout(done, 1000))) {
    try {
      const response = await ask("queue", `${path(job)}/status/stream?logs=1`);
      if (response.status >= 500) throw new TypeError(`it answered ${response.status}`);
      if (!response.ok) await answer(response);
      $("log").replaceChildren(); // a new stream begins with all lines
      for await (const state of events(response)) {
        failures = 0;
        tell(job, state);
        if (state.status === "COMPLETED") return;
      }
    } catch (error) {
      if (error instanceof Failure || ++failures > 5) throw error;
    }
  }
}

function tell(job, state) {
  const now = (text, part) => job.cancelled || say(text, part);
  const ahead = state.queue_position;
  if (state.status === "IN_QUEUE") now(ahead ? `In the queue, ${ahead} ahead of yours` : "Next in the queue");
  else if (!$("log").childElementCount) now("Getting ready");
  for (const { message, timestamp, level } of state.logs ?? []) {
    const time = Object.assign(document.createElement("time"), { dateTime: timestamp });
    time.textContent = new Date(timestamp).toTimeString().slice(0, 8);
    const row = Object.assign(document.createElement("li"), { className: level === "INFO" ? "" : "trouble" });
    row.append(time, message);
    $("log").append(row);
    const [, made, total] = message.match(/lip-synced (\d+) of (\d+) frames/) ?? [];
    if (made) now(made === total ? "Putting it together" : "Lip-syncing", made / total);
    job.cost = message.match(/^done: .* cost (\$[\d.]+)/)?.[1] ?? job.cost;
    $("log").scrollTop = $("log").scrollHeight;
    $("logs").hidden = false;
  }
}

/** What happens now, and how far it is (0 to 1; left out: not known). */
function say(text, part) {
  if ($("state").textContent !== text) $("state").textContent = text; // repeated, it would be read out again
  if (part === undefined) $("bar").removeAttribute("value");
  else $("bar").value = part;
}

function cancel() {
  current.cancelled = $("cancel").disabled = true;
  say("Cancelling");
  if (!current.id) current.abort?.();
  else ask("queue", `${path(current)}/cancel`, { method: "PUT" }).catch(() => ($("cancel").disabled = false));
}

const [before, after] = [$("before"), $("after")];
let [borrowed, frame] = ["", 0];
const start = (video) => video.play().catch(() => {}); // refused when a pause overtakes it

function show(job, video, seed) {
  URL.revokeObjectURL(borrowed);
  borrowed = job.before instanceof Blob ? URL.createObjectURL(job.before) : "";
  before.src = borrowed || job.before;
  after.src = here(video.url);
  before.hidden = !job.before;
  $("before-note").hidden = !before.hidden;
  $("seed-used").textContent = seed;
  $("cost").textContent = job.cost;
  $("elapsed").textContent = seconds(job);
  Object.assign($("download"), { href: here(video.url), download: `lip-synced-${seed}.mp4` });
  say("Done", 1);
  $("logs").open = false;
  $("result").hidden = false;
}

/** Brings the original to where the result is. A shorter one starts again: no player runs backwards. */
function align(tolerance) {
  const own = length(before);
  if (!own || before.seeking) return;
  const wanted = after.currentTime <= own + 0.05 ? Math.min(after.currentTime, own - 0.01) : after.currentTime % own;
  const late = wanted - before.currentTime;
  if (Math.min(Math.abs(late), own - Math.abs(late)) > tolerance) before.currentTime = wanted;
  else before.playbackRate = 1 + Math.max(-tolerance, Math.min(tolerance, late)); // a seek for every small gap would stutter
}

function keepStep() {
  cancelAnimationFrame(frame);
  $("scrub").max = length(after) || 1;
  $("scrub").value = after.currentTime;
  $("time").textContent = `${clock(after.currentTime)} / ${clock(length(after))}`;
  $("scrub").setAttribute("aria-valuetext", $("time").textContent.replace("/", "of"));
  $("play").classList.toggle("is-on", !after.paused);
  $("play").setAttribute("aria-label", after.paused ? "Play" : "Pause");
  align(after.paused ? 0.02 : 0.12);
  if (after.paused) return before.pause();
  if (before.paused && length(before)) start(before);
  frame = requestAnimationFrame(keepStep);
}

function showCode() {
  const body = input((slot) => `https://example.com/${encodeURIComponent(slot.file.name)}`);
  for (const { field, part } of inOrder) body[field] ||= part.dataset.example;
  const [tab] = all("[role=tab][aria-selected=true]");
  const lines = JSON.stringify(body, null, tab.dataset.indent).replaceAll("\n", `\n${tab.dataset.indent}`);
  const values = { ...about, root, input: tab.id === "tab-curl" ? lines.replaceAll("'", "'\\''") : lines };
  const text = $(tab.id.replace("tab", "code")).content.textContent.trim();
  $("code").setAttribute("aria-labelledby", tab.id);
  $("code").textContent = text.replace(/\{\{(\w+)\}\}/g, (_, name) => values[name]);
  $("code-hint").hidden = !inOrder.some((slot) => slot.file && !slot.uploaded);
}

function pick(tab) {
  for (const each of all("[role=tab]")) Object.assign(each, { ariaSelected: each === tab, tabIndex: each === tab ? 0 : -1 });
  showCode();
}

async function copy() {
  getSelection().selectAllChildren($("code")); // what is left to a page without TLS, which has no clipboard
  const done = navigator.clipboard?.writeText($("code").textContent).then(() => true);
  $("copy").textContent = (await done?.catch(() => false)) || document.execCommand("copy") ? "Copied" : "Press Ctrl+C";
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
}

on($("form"), "submit", (event) => (event.preventDefault(), run()));
on($("form"), "input", ({ target }) => {
  if (FIELDS.includes(target.id)) blame(target.id, "");
  $("guidance-shown").value = Number($("guidance_scale").value).toFixed(1);
  sessionStorage.setItem("key", $("key").value);
  showCode();
});
on($("example"), "click", () => ["demo.mp4", "demo.wav"].forEach((name, n) => choose(inOrder[n], null, `${root}demo/${name}`)));
on($("reuse"), "click", () => (($("seed").value = $("seed-used").textContent), blame("seed", ""), showCode()));
on($("cancel"), "click", cancel);
on($("copy"), "click", copy);
for (const each of [$("play"), before, after]) on(each, "click", () => (after.paused ? start(after) : after.pause()));
for (const each of [before, after]) on(each, "play pause seeked loadedmetadata", keepStep);
on($("scrub"), "input", () => (after.currentTime = $("scrub").value));
on($("mute"), "click", () => ($("mute").ariaPressed = $("mute").classList.toggle("is-on", (after.muted = !after.muted))));
for (const tab of all("[role=tab]")) {
  on(tab, "focus click", () => pick(tab));
  const [next, last] = [tab.nextElementSibling, tab.previousElementSibling];
  on(tab, "keydown", ({ key }) => ({ ArrowRight: next, ArrowLeft: last })[key]?.focus());
}
on(window, "dragover", (event) => event.dataTransfer.types.includes("Files") && event.preventDefault());
on(window, "drop", drop);

$("key").value = sessionStorage.getItem("key") ?? "";
Object.assign(about, await (await fetch(`${root}playground.json`)).json());
const { minimum, included_seconds, per_second } = about.tariff;
[$("app").textContent, $("model").textContent, $("key-field").hidden] = [about.app, about.model, about.open];
$("price").textContent = `$${minimum} up to ${included_seconds} s, longer clips $${per_second} per second`;
showCode();
