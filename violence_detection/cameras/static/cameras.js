// The page of the watcher: cameras now, their last hour, events and what people say of them.
"use strict";

const EVERY = 2000; // milliseconds from one look at the cameras to the next
const EVENTS_EVERY = 5; // of these looks
const PAGE = 20; // events that are shown at first, and added with each "Older events"
const MISSED = 15; // seconds before a time that is pointed at, and after it

const cards = new Map(); // by camera
const known = new Map(); // events by folder
const rows = new Map(); // what shows them, by folder
let newest = null; // the events that were shown last, as text
let hasOlder = false;
let looks = 0;

// ---- requests

class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
  };
  const response = await fetch(path, options);
  if (response.status === 204) return null;
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, content.detail ?? `status ${response.status}`);
  return content;
}

async function look() {
  try {
    const { now, cameras } = await ask("api/cameras");
    byId("login").hidden = true;
    showCameras(cameras, now);
    if (looks++ % EVENTS_EVERY === 0) await lookAtEvents();
    fail(null);
  } catch (error) {
    if (error.status === 401) return askForToken();
    byId("summary").textContent = "What is shown may be old.";
    fail(error instanceof Refused ? error.message : "The watcher cannot be reached");
  }
  setTimeout(look, EVERY);
}

async function lookAtEvents() {
  const events = await ask(`api/events?count=${PAGE}`);
  const text = JSON.stringify(events);
  if (text !== newest) takeEvents(events, events.length === PAGE);
  newest = text;
}

function askForToken() {
  byId("login").hidden = false;
  byId("summary").textContent = "";
  byId("cameras").replaceChildren();
  cards.clear();
  byId("events-section").hidden = true;
  fail(null);
}

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask("login", { token: byId("token").value });
    byId("token").value = "";
    look();
  } catch (error) {
    fail(error.status === 401 ? "Wrong access token" : error.message);
    byId("token").focus();
  }
});

function fail(text) {
  const error = byId("error");
  error.hidden = text === null;
  error.textContent = text === null ? "" : sentence(text);
}

// ---- cameras

function showCameras(cameras, now) {
  const names = new Set(cameras.map((camera) => camera.name));
  for (const [name, card] of cards)
    if (!names.has(name)) {
      card.remove();
      cards.delete(name);
    }
  for (const camera of cameras) {
    if (!cards.has(camera.name)) cards.set(camera.name, newCard(camera));
    showCamera(cards.get(camera.name), camera, now);
  }
  const away = cameras.filter((camera) => camera.status !== "watched").length;
  const alarms = cameras.filter((camera) => camera.alarm).length;
  const parts = [counted(cameras.length, "camera")];
  if (alarms) parts.push(counted(alarms, "alarm"));
  if (away) parts.push(`${away} without a live picture`);
  byId("summary").textContent = sentence(parts.join(", "));
  document.title = alarms ? `(${alarms}) Cameras` : "Cameras";
}

function newCard(camera) {
  const card = byId("camera-template").content.firstElementChild.cloneNode(true);
  const part = (selector) => card.querySelector(selector);
  part(".camera-name").textContent = camera.name;
  part(".camera-source").textContent = camera.source;
  part("img").alt = `Last picture of ${camera.name}`;
  part("img").addEventListener("load", () => placeMask(card));
  part(".missed").hidden = camera.is_file;
  part(".missed").addEventListener("click", () => openForm(card, part(".missed-form").hidden));
  part(".hour").addEventListener("pointermove", (event) => {
    part(".pointed").textContent = timeOf(pointedAt(card, event), true);
  });
  part(".hour").addEventListener("pointerleave", () => (part(".pointed").textContent = ""));
  part(".hour").addEventListener("click", (event) => {
    if (!camera.is_file) openForm(card, true, pointedAt(card, event));
  });
  part(".missed-form").addEventListener("submit", (event) => {
    event.preventDefault();
    keepMissed(card, camera.name);
  });
  byId("cameras").append(card);
  return card;
}

function showCamera(card, camera, now) {
  const part = (selector) => card.querySelector(selector);
  card.className = `camera ${camera.status}${camera.alarm ? " alarm" : ""}`;
  card.dataset.now = now;
  const score = camera.scores.at(-1);
  const current = score && now - score[0] < 60 ? `probability of violence ${percent(score[1])}` : "no prediction yet";
  const states = {
    connecting: "Connecting",
    watched: camera.alarm ? `Alarm, ${current}` : `Live, ${current}`,
    lost: `Lost at ${timeOf(camera.since)}: ${camera.reason}`,
    frozen: `Frozen: the same picture since ${timeOf(camera.since)}`,
  };
  part(".camera-status").textContent = `${states[camera.status]}.`;
  const image = part("img");
  if (camera.pictured && image.dataset.at !== String(camera.pictured)) {
    image.dataset.at = camera.pictured;
    image.src = `api/cameras/${encodeURIComponent(camera.name)}/picture?${camera.pictured}`;
    image.hidden = false;
    part(".no-picture").hidden = true;
  }
  const polygons = camera.mask.map((corners) => svgElement("polygon", { points: corners.join(" ") }));
  part(".mask").replaceChildren(...polygons);
  showHour(part(".hour"), camera, now);
}

// The mask lies on the picture, which seldom fills its frame.
function placeMask(card) {
  const image = card.querySelector("img"), { style } = card.querySelector(".mask");
  style.width = `${image.clientWidth}px`;
  style.height = `${image.clientHeight}px`;
}

function showHour(plot, camera, now) {
  const hour = Number(document.body.dataset.hour);
  const y = (probability) => 195 - 190 * probability;
  const bars = camera.scores.map(([moment, score]) =>
    svgElement("rect", {
      class: score >= camera.threshold ? "above" : "below",
      x: 1000 * (1 - (now - moment) / hour) - 2, width: 3, y: y(score) - 1, height: 196 - y(score),
    }),
  );
  const line = svgElement("line", { class: "threshold", x1: 0, x2: 1000, y1: y(camera.threshold), y2: y(camera.threshold) });
  plot.replaceChildren(...bars, line);
  const highest = Math.max(0, ...camera.scores.map(([, score]) => score));
  plot.setAttribute("aria-label", `Probability of violence at ${camera.name} in the last hour, at most ${percent(highest)}; the threshold is ${percent(camera.threshold)}`);
}

function pointedAt(card, event) {
  const box = card.querySelector(".hour").getBoundingClientRect();
  const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  return Number(card.dataset.now) - Number(document.body.dataset.hour) * (1 - share);
}

// ---- what was missed

function openForm(card, open, around = null) {
  const form = card.querySelector(".missed-form");
  form.hidden = !open;
  card.querySelector(".missed").setAttribute("aria-expanded", open);
  if (!open) return;
  const now = Number(card.dataset.now);
  const end = around === null ? now : Math.min(now, around + MISSED);
  form.querySelector(".from").value = timeOf(end - 2 * MISSED, true);
  form.querySelector(".to").value = timeOf(end, true);
}

async function keepMissed(card, name) {
  const form = card.querySelector(".missed-form");
  const [start, end] = [".from", ".to"].map((field) => momentOf(form.querySelector(field).value, card));
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    await ask(`api/cameras/${encodeURIComponent(name)}/missed`, { start, end });
    openForm(card, false);
    announce("Kept as an example of violence");
    await lookAtEvents();
    fail(null);
  } catch (error) {
    fail(error.message);
  }
  button.disabled = false;
}

// The last moment, in seconds since 1970, at which a clock shows a time.
function momentOf(time, card) {
  const now = Number(card.dataset.now);
  const [hours, minutes, seconds] = time.split(":").map(Number);
  const moment = new Date(1000 * now);
  moment.setHours(hours, minutes, seconds ?? 0, 0);
  const found = moment.getTime() / 1000;
  return found > now + 1 ? found - 86400 : found;
}

// ---- events

// Takes the newest events, and keeps the older ones that were asked for.
function takeEvents(events, hasMore) {
  const oldest = events.at(-1)?.folder ?? "";
  for (const folder of [...known.keys()]) if (folder >= oldest) known.delete(folder);
  if (known.size === 0) hasOlder = hasMore;
  for (const event of events) known.set(event.folder, event);
  showEvents();
}

function showEvents() {
  const events = [...known.values()].sort((a, b) => (a.folder < b.folder ? 1 : -1));
  byId("events-section").hidden = false;
  byId("events-note").hidden = events.length > 0;
  byId("older").hidden = !hasOlder;
  for (const folder of [...rows.keys()]) if (!known.has(folder)) rows.delete(folder);
  for (const event of events) {
    if (!rows.has(event.folder)) rows.set(event.folder, newRow(event));
    showLabel(rows.get(event.folder), event);
  }
  const wanted = events.map((event) => rows.get(event.folder));
  const present = [...byId("events").children];
  // A clip that is playing goes on unless an event was added or removed.
  if (wanted.length !== present.length || wanted.some((row, n) => row !== present[n]))
    byId("events").replaceChildren(...wanted);
}

function newRow(event) {
  const row = byId("event-template").content.firstElementChild.cloneNode(true);
  const part = (selector) => row.querySelector(selector);
  const [start, end] = [event.start, event.end].map((text) => Date.parse(text) / 1000);
  part("h3").textContent = `${event.camera}, ${dayOf(start)}, ${timeOf(start, true)}`;
  const words = [`${(end - start).toFixed(1)} s`];
  if (event.kind === "missed") words.push("added by hand");
  else words.push(`highest probability ${percent(event.probability)}`);
  if (event.interrupted) words.push("the watcher was interrupted");
  part(".under").textContent = sentence(words.join(", "));
  const place = `api/events/${event.folder.split("/").map(encodeURIComponent).join("/")}`;
  part("img").alt = `${event.camera} at the event`;
  if (event.snapshot) part("img").src = `${place}/snapshot`;
  part("img").hidden = !event.snapshot;
  part(".no-picture").hidden = Boolean(event.snapshot);
  for (const name of [".play", ".false-alarm", ".right"]) part(name).hidden = !event.clip;
  part(".play").addEventListener("click", () => play(row, `${place}/clip`));
  part(".false-alarm").addEventListener("click", () => label(row, "nonviolent"));
  part(".right").addEventListener("click", () => label(row, "violent"));
  return row;
}

function showLabel(row, event) {
  row.dataset.folder = event.folder;
  row.dataset.label = event.label ?? "";
  const texts = { violent: "Kept as an example of violence.", nonviolent: "False alarm: kept as an example without violence." };
  const none = event.clip ? "" : "No clip of it: it cannot be an example.";
  row.querySelector(".verdict").textContent = texts[event.label] ?? none;
  row.querySelector(".false-alarm").setAttribute("aria-pressed", event.label === "nonviolent");
  row.querySelector(".right").setAttribute("aria-pressed", event.label === "violent");
}

// The same button again takes the label back.
async function label(row, wanted) {
  const value = row.dataset.label === wanted ? null : wanted;
  try {
    const event = await ask("api/label", { folder: row.dataset.folder, label: value });
    known.set(event.folder, event);
    showLabel(row, event);
    announce(value === null ? "Label removed" : row.querySelector(".verdict").textContent);
    fail(null);
  } catch (error) {
    fail(error.message);
  }
}

function play(row, source) {
  const player = row.querySelector(".player"), button = row.querySelector(".play");
  const open = player.hidden;
  player.hidden = !open;
  player.replaceChildren();
  button.setAttribute("aria-expanded", open);
  button.textContent = open ? "Close" : "Play";
  if (!open) return;
  const video = element("video", { controls: "", autoplay: "", playsinline: "", src: source });
  video.muted = true; // else browsers refuse to begin by themselves
  video.addEventListener("error", () => {
    const note = element("p", { class: "note" }, "This browser cannot play the camera's format: ");
    note.append(element("a", { href: source, download: "" }, "download the clip"));
    player.replaceChildren(note);
  });
  player.append(video);
}

byId("older").addEventListener("click", async () => {
  const oldest = [...known.keys()].sort()[0];
  try {
    const events = await ask(`api/events?count=${PAGE}&before=${encodeURIComponent(oldest)}`);
    hasOlder = events.length === PAGE;
    for (const event of events) known.set(event.folder, event);
    showEvents();
  } catch (error) {
    fail(error.message);
  }
});

// ---- words

const two = (number) => String(number).padStart(2, "0");

function timeOf(seconds, exact = false) {
  const moment = new Date(1000 * seconds);
  const time = `${two(moment.getHours())}:${two(moment.getMinutes())}`;
  return exact ? `${time}:${two(moment.getSeconds())}` : time;
}

function dayOf(seconds) {
  const moment = new Date(1000 * seconds);
  return `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())}`;
}

look();
