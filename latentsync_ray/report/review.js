"use strict";
// Tabs, two videos in step, and marks. All that comes from the table is read from attributes, and written as text.
(() => {
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const cards = all("[data-clip]");
  if (!cards.length) return;
  document.documentElement.classList.add("live");

  // Marks: clip -> what to do, kept for the output's name, also for clips that the page does not show.
  const KEY = `latentsync-ray marks of ${document.body.dataset.output}`;
  const LARGEST = 2n ** 63n - 1n;
  let marks = new Map();
  function load() {
    try {
      marks = new Map(JSON.parse(localStorage.getItem(KEY) || "[]"));
    } catch {
      marks = new Map();
    }
  }
  function save() {
    try {
      localStorage.setItem(KEY, JSON.stringify([...marks]));
      one("#unkept").hidden = true;
    } catch {
      one("#unkept").hidden = false;
    }
    show();
  }
  const usable = (seed) => /^\d{1,19}$/.test(seed) && BigInt(seed) <= LARGEST;
  const done = (card, mark) => mark?.mark === "redo" && mark.seed === card.dataset.seed;

  function toggle(card, what) {
    const id = card.dataset.clip, now = marks.get(id), again = done(card, now);
    if (now?.mark !== what || (what === "redo" && again)) {
      marks.set(id, what === "redo" ? { mark: what, seed: card.dataset.next, was: again ? now.seed : "" } : { mark: what });
    } else if (now.was) {
      marks.set(id, { mark: "redo", seed: now.was });
    } else {
      marks.delete(id);
    }
    save();
  }

  function show() {
    for (const card of cards) {
      const mark = marks.get(card.dataset.clip), seed = one(".seed input", card);
      card.dataset.marked = mark?.mark ?? "";
      for (const button of all("[data-mark]", card)) {
        button.setAttribute("aria-pressed", String(mark?.mark === button.dataset.mark));
      }
      one(".seed", card).hidden = mark?.mark !== "redo";
      if (seed !== document.activeElement) seed.value = mark?.seed ?? "";
      seed.setAttribute("aria-invalid", String(mark?.mark === "redo" && !usable(mark.seed)));
      one(".done", card).hidden = !done(card, mark);
    }
    const count = { keep: 0, redo: 0, drop: 0 };
    for (const mark of marks.values()) count[mark.mark] += 1;
    const told = Object.entries(count).filter(([, number]) => number).map(([name, number]) => `${number} ${name}`);
    one("#count").textContent = told.length ? told.join(", ") : "no marks yet";
    const bad = [...marks].find(([, mark]) => mark.mark === "redo" && !usable(mark.seed));
    one("#problem").textContent = bad ? `${bad[0]}: a seed is a whole number from 0 to 2^63 - 1` : "";
    one("#export").disabled = !marks.size || Boolean(bad);
    one("#all").hidden = !marks.size;
    one("#list").replaceChildren(...[...marks].map(([id, mark]) => {
      const row = document.createElement("li"), name = document.createElement("span"), remove = document.createElement("button");
      name.className = "id";
      name.textContent = id;
      remove.type = "button";
      remove.textContent = "remove";
      remove.onclick = () => {
        marks.delete(id);
        save();
      };
      row.append(name, ` ${mark.mark}${mark.mark === "redo" ? ` ${mark.seed}` : ""} `, remove);
      return row;
    }));
  }

  const cell = (text) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  one("#export").onclick = () => {
    const lines = [...marks].map(([id, mark]) => [id, mark.mark, mark.mark === "redo" ? mark.seed : ""].map(cell).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([["clip_id,mark,seed", ...lines, ""].join("\n")], { type: "text/csv" }));
    link.download = "marks.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  };

  // Videos: the result leads, the source shows what the result was made of at that moment.
  let open = null;
  const speed = () => (one("#slow")?.checked ? 0.25 : 1);

  /** A video of the card that this browser can show, or null. */
  function film(card, side) {
    const address = card.dataset[side];
    if (!address) return Promise.resolve(null);
    const video = document.createElement("video");
    Object.assign(video, { playsInline: true, preload: "auto", muted: side === "source", src: address });
    one(`.${side}`, card).append(video);
    return new Promise((resolve) => {
      const settle = (works) => {
        if (!works) video.remove();
        resolve(works ? video : null);
      };
      video.onloadeddata = () => settle(video.videoWidth > 0); // of HEVC some browsers play the sound only
      video.onerror = () => settle(false);
      setTimeout(() => video.readyState < 2 && settle(false), 10_000);
    });
  }

  /** Where the source is at a moment of the result, and whether it goes forward. */
  function place(time, length, mode) {
    if (!(length > 0) || time < length) return [time, true];
    const pass = Math.floor(time / length), rest = time - pass * length;
    return mode === "loop" || pass % 2 === 0 ? [rest, true] : [length - rest, false];
  }

  function seek(video, time) {
    video.currentTime = time;
    return new Promise((resolve) => {
      video.onseeked = resolve;
      if (!video.seeking) resolve();
    });
  }

  function step(view) {
    if (open !== view) return;
    const { lead, source, card } = view;
    if (source && source !== lead) {
      const [at, forward] = place(lead.currentTime, source.duration, card.dataset.loop);
      const moving = !lead.paused && !lead.ended && forward && at < source.duration - 0.04;
      const late = at - source.currentTime;
      if (!source.seeking && Math.abs(late) > (moving ? 0.25 : 0.02)) source.currentTime = at;
      if (moving && source.paused) source.play().catch(() => {});
      if (!moving && !source.paused) source.pause();
      source.playbackRate = lead.playbackRate * (1 + (Math.abs(late) > 0.02 ? 2 * Math.max(-0.2, Math.min(late, 0.2)) : 0));
    }
    const scrub = one(".scrub", card);
    if (scrub !== document.activeElement || !lead.paused) scrub.value = lead.currentTime;
    one(".time", card).textContent = `${lead.currentTime.toFixed(2)} of ${lead.duration.toFixed(2)} s`;
    one(".play", card).textContent = lead.paused || lead.ended ? "play" : "pause";
    requestAnimationFrame(() => step(view));
  }

  function close() {
    if (!open) return;
    const { card } = open;
    open = null;
    for (const video of all("video", card)) {
      video.pause();
      video.removeAttribute("src");
      video.remove();
    }
    card.classList.remove("open");
    one(".play", card).textContent = "play";
    one(".time", card).textContent = "";
  }

  async function play(card) {
    if (open?.card === card) {
      const { lead } = open;
      if (!lead) return;
      if (lead.ended) lead.currentTime = Number(card.dataset.cue);
      if (lead.paused || lead.ended) await lead.play();
      else lead.pause();
      return;
    }
    close();
    const view = { card, lead: null, source: null };
    open = view;
    card.classList.add("open");
    const [result, source] = await Promise.all([film(card, "result"), film(card, "source")]);
    if (open !== view) return;
    const lead = result || source;
    const told = [];
    if (card.dataset.result && !result) told.push("This browser cannot play the result.");
    if (card.dataset.source && !source) told.push("This browser cannot play the source: its picture stays.");
    if (result && source && result.duration > source.duration + 0.1) {
      const how = card.dataset.loop === "loop" ? "starts again" : "goes backward and forward";
      told.push(`The source has ${source.duration.toFixed(2)} s and ${how} then, as in the result.`);
    }
    one(".told", card).textContent = told.join(" ");
    if (!lead) {
      close();
      return;
    }
    Object.assign(view, { lead, source });
    const scrub = one(".scrub", card), flag = Number(card.dataset.flag || "NaN");
    scrub.max = lead.duration;
    one(".flag", card).hidden = !(flag >= 0);
    one(".flag", card).style.left = `${(100 * flag) / lead.duration}%`;
    scrub.oninput = () => (lead.currentTime = Number(scrub.value));
    lead.playbackRate = speed();
    const cue = Math.min(Number(card.dataset.cue), Math.max(0, lead.duration - 0.1));
    await Promise.all([seek(lead, cue), source && source !== lead && seek(source, place(cue, source.duration, card.dataset.loop)[0])]);
    if (open !== view) return;
    card.scrollIntoView({ block: "nearest" });
    await lead.play().catch(() => {});
    step(view);
  }

  for (const card of cards) {
    for (const button of all("[data-mark]", card)) button.onclick = () => toggle(card, button.dataset.mark);
    one(".seed input", card).oninput = ({ target }) => {
      marks.set(card.dataset.clip, { ...marks.get(card.dataset.clip), seed: target.value.trim() });
      save();
    };
    const start = one(".play", card);
    if (start) start.onclick = () => play(card);
    card.onkeydown = (event) => {
      const what = { k: "keep", r: "redo", d: "drop" }[event.key];
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=range])")) return;
      if (what) toggle(card, what);
      else if (event.key === "p" && start) play(card);
    };
  }
  if (one("#slow")) {
    one("#slow").onchange = () => {
      if (open?.lead) open.lead.playbackRate = speed();
    };
  }

  const tabs = all("[role=tab]");
  function select(tab) {
    close();
    for (const each of tabs) {
      each.setAttribute("aria-selected", String(each === tab));
      each.tabIndex = each === tab ? 0 : -1;
      document.getElementById(each.getAttribute("aria-controls")).hidden = each !== tab;
    }
  }
  tabs.forEach((tab, place) => {
    tab.onclick = () => select(tab);
    tab.onkeydown = ({ key }) => {
      const other = tabs[place + ({ ArrowRight: 1, ArrowLeft: -1 }[key] ?? 0)];
      if (other && other !== tab) {
        select(other);
        other.focus();
      }
    };
  });
  if (tabs.length) select(tabs[0]);
  addEventListener("storage", ({ key }) => {
    if (key !== KEY) return;
    load();
    show();
  });
  load();
  show();
})();
