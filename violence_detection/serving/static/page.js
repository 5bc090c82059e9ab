// The page of the service: sends a clip, tells how far it is, shows what is found.
"use strict";

const LONG = 10; // seconds from which a clip is judged over time, if it is left to its length

const by = (id) => document.getElementById(id);
let file = null; // the clip that was chosen last
let request = null; // that is on its way

// ---- choosing a clip

by("file").addEventListener("change", () => choose(by("file").files[0]));
by("form").addEventListener("submit", (event) => {
  event.preventDefault();
  choose(file);
});
by("cancel").addEventListener("click", () => request?.abort());

for (const kind of ["dragenter", "dragover"])
  addEventListener(kind, (event) => {
    event.preventDefault(); // else a clip that misses would replace the page
    by("drop").classList.add("over");
  });
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) by("drop").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  by("drop").classList.remove("over");
  choose(event.dataTransfer.files[0]);
});

async function choose(chosen) {
  if (!chosen) return;
  file = chosen;
  request?.abort();
  by("error").hidden = true;
  by("result").hidden = true;
  by("again").disabled = false;
  const megabytes = Number(document.body.dataset.megabytes);
  if (file.size > megabytes * 2 ** 20)
    return fail(`The clip has ${(file.size / 2 ** 20).toFixed(1)} MB, more than the ${megabytes} MB allowed.`);
  const token = by("token");
  if (token && !token.value) {
    fail("This server wants its token first.");
    return token.focus();
  }
  const sent = file;
  const way = document.querySelector("input[name=way]:checked").value;
  const byLength = way === "auto";
  const overTime = way === "timeline" || (byLength && (await lengthOf(sent)) >= LONG);
  if (sent === file) send(sent, overTime, byLength, token?.value);
}

// Resolves to the seconds of a clip, 0 where the browser cannot tell.
function lengthOf(clip) {
  return new Promise((resolve) => {
    const video = document.createElement("video");
    const address = URL.createObjectURL(clip);
    const tell = (seconds) => {
      URL.revokeObjectURL(address);
      resolve(Number.isFinite(seconds) ? seconds : 0);
    };
    video.preload = "metadata";
    video.addEventListener("loadedmetadata", () => tell(video.duration));
    video.addEventListener("error", () => tell(0));
    setTimeout(tell, 3000, 0);
    video.src = address;
  });
}

// ---- asking the server

function send(clip, overTime, byLength, token) {
  const form = new FormData();
  form.append("video", clip, "clip"); // its name is nobody's business
  const asked = new XMLHttpRequest();
  const lines = overTime ? new Lines() : null;
  request = asked;
  begin();
  asked.open("POST", overTime ? "predict/timeline" : "predict?images=true");
  if (token) asked.setRequestHeader("Authorization", `Bearer ${token}`);
  asked.upload.addEventListener("progress", (event) => {
    if (event.lengthComputable) advance("Uploading", event.loaded / event.total);
  });
  asked.upload.addEventListener("load", () => advance("Judging", null));
  asked.addEventListener("progress", () => {
    if (lines && asked.status === 200) lines.take(asked.responseText);
  });
  asked.addEventListener("load", () => {
    end(asked);
    if (asked.status === 200 && !lines) {
      const found = JSON.parse(asked.responseText);
      // Where the browser could not tell how long it lasts, its last frame does.
      return byLength && found.frames.at(-1).time >= LONG ? send(clip, true, false, token) : showClip(found);
    }
    if (asked.status === 200) {
      lines.take(asked.responseText);
      if (lines.result) return showTimeline(lines.result);
      return fail(sentence(lines.problem ?? "the server ended before it was done"));
    }
    if (asked.status !== 401) return fail(sentence(reasonOf(asked)));
    fail("This is not the token of this server.");
    by("token")?.focus();
  });
  asked.addEventListener("error", () => {
    end(asked);
    fail("The server cannot be reached, or has ended the connection.");
  });
  asked.addEventListener("abort", () => {
    end(asked);
    if (request === null) say("Cancelled");
  });
  asked.send(form);
}

function reasonOf(asked) {
  try {
    const { detail } = JSON.parse(asked.responseText);
    const wait = asked.getResponseHeader("Retry-After");
    return wait ? `${detail}; try again in ${wait} s` : detail;
  } catch {
    return `the server answers with status ${asked.status}`;
  }
}

// What a timeline's answer says so far: a line of JSON per window, and at last the result.
class Lines {
  read = 0; // characters
  result = null;
  problem = null;

  take(text) {
    let end;
    while ((end = text.indexOf("\n", this.read)) >= 0) {
      const line = JSON.parse(text.slice(this.read, end));
      this.read = end + 1;
      if ("progress" in line) advance("Judging", line.progress);
      this.result = line.result ?? this.result;
      this.problem = line.problem?.detail ?? this.problem;
    }
  }
}

// ---- what is going on

function begin() {
  by("busy").hidden = false;
  by("cancel").hidden = false;
  by("again").disabled = true;
  by("stage").dataset.stage = "";
  advance("Uploading", 0);
}

function end(asked) {
  if (request !== asked) return; // another clip has taken its place
  request = null;
  const focused = document.activeElement === by("cancel");
  by("busy").hidden = true;
  by("cancel").hidden = true;
  by("again").disabled = false;
  if (focused) by("again").focus();
}

// Tells how far it is; to a screen reader, only when a stage begins.
function advance(stage, share) {
  const bar = by("progress");
  if (share === null) bar.removeAttribute("value");
  else bar.value = 100 * share;
  by("stage").textContent = share === null ? `${stage} …` : `${stage}, ${Math.round(100 * share)} %`;
  if (by("stage").dataset.stage !== stage) say(stage);
  by("stage").dataset.stage = stage;
}

function say(text) {
  by("status").textContent = text;
}

function fail(text) {
  by("result").hidden = true;
  by("error").textContent = text;
  by("error").hidden = false;
  say("");
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + ".";
}

// ---- what is found

function showClip(found) {
  const heaviest = Math.max(...found.frames.map((frame) => frame.attention));
  const least = Math.min(...found.frames.map((frame) => frame.attention));
  const items = found.frames.map((frame, number) => {
    const when = frame.time === null ? `frame ${number + 1}` : `${frame.time.toFixed(2)} s`;
    const share = `${(100 * frame.attention).toFixed(1)} %`;
    const item = element("li", { class: frame.attention === heaviest && heaviest > least ? "largest" : "" });
    const figure = element("figure", {});
    if (frame.image) figure.append(element("img", { src: frame.image, alt: `The clip at ${when}` }));
    const bar = drawing("svg", { class: "bar", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" });
    bar.append(
      drawing("rect", { class: "ground", width: 100, height: 6 }),
      drawing("rect", { class: "bar-fill", width: (100 * frame.attention) / heaviest, height: 6 }),
    );
    const caption = element("figcaption", {});
    caption.append(element("span", {}, when), element("span", {}, share));
    figure.append(bar, caption);
    item.append(figure);
    return item;
  });
  by("strip").replaceChildren(...items);
  by("of-frames").hidden = false;
  by("over-time").hidden = true;
  show(found, `probability ${percent(found.probability)}, violent from ${percent(found.threshold)} on`, found.probability);
}

function showTimeline(found) {
  const peak = Math.max(0, ...found.windows.map((window) => window.probability));
  const length = Math.max(found.duration, 0.001);
  const x = (time) => (1000 * time) / length;
  const y = (probability) => 195 - 190 * probability;
  const shapes = found.events.map((event) =>
    drawing("rect", { class: "event", x: x(event.start), width: Math.max(4, x(event.end - event.start)), y: 0, height: 200 }),
  );
  const points = found.windows.map((window) => `${x((window.start + window.end) / 2)},${y(window.probability)}`);
  shapes.push(
    drawing("line", { class: "threshold", x1: 0, x2: 1000, y1: y(found.threshold), y2: y(found.threshold) }),
    drawing("polyline", { class: "line", points: points.join(" ") }),
  );
  by("timeline").replaceChildren(...shapes);
  by("end").textContent = clock(found.duration);
  const count = found.events.length;
  const stretches = count === 1 ? "1 violent stretch" : `${count} violent stretches`;
  by("timeline-says").textContent =
    `Probability of ${found.windows.length} windows over ${clock(found.duration)}, at most ${percent(peak)}; ` +
    `the dashed line is the threshold, ${percent(found.threshold)}. ${sentence(count ? stretches : "no violent stretch")}`;
  const rows = found.events.map((event) => {
    const row = element("tr", {});
    for (const cell of [clock(event.start), clock(event.end), clock(event.peak), percent(event.probability)])
      row.append(element("td", {}, cell));
    return row;
  });
  by("events").tBodies[0].replaceChildren(...rows);
  by("events").hidden = !count;
  by("of-frames").hidden = true;
  by("over-time").hidden = false;
  show(found, `${count ? stretches : "no violent stretch"}, highest probability ${percent(peak)}, violent from ${percent(found.threshold)} on`, peak);
}

function show(found, said, probability) {
  const verdict = found.violent ? "violent" : "nonviolent";
  by("verdict").textContent = sentence(verdict).slice(0, -1);
  by("verdict").className = verdict;
  by("said").textContent = sentence(said);
  const at = 1000 * found.threshold;
  by("scale").replaceChildren(
    drawing("rect", { class: "ground", width: 1000, y: 12, height: 16 }),
    drawing("rect", { class: `${verdict}-fill`, width: 1000 * probability, y: 12, height: 16 }),
    drawing("line", { class: "mark", x1: at, x2: at, y1: 2, y2: 38 }),
  );
  by("made-by").textContent = `${found.model}, ${found.seconds.toFixed(2)} s from the end of the upload.`;
  by("result").hidden = false;
  say(`${sentence(verdict)} ${sentence(said)}`);
}

const percent = (probability) => `${(100 * probability).toFixed(1)} %`;

function clock(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

function element(name, attributes, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function drawing(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
