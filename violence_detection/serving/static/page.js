// The page of the service: uploads a clip, shows the progress, and then the prediction.
"use strict";

const LONG_CLIP = 10; // seconds from which "automatic" analyzes a clip over time
const LONGEST_WAIT = 600; // seconds for a server that is loading or busy

let clips = []; // those that were chosen last: {file, answer, error}
let current = null; // the one that is shown or analyzed
let request = null; // what is running: it can be aborted

// ---- choosing clips

// Browsers say nothing when the same file is chosen again, unless the choice before is forgotten.
byId("file").addEventListener("click", () => (byId("file").value = ""));
byId("file").addEventListener("change", () => choose(byId("file").files));
byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  choose(clips.map((clip) => clip.file));
});
byId("cancel").addEventListener("click", cancel);
byId("example").addEventListener("click", async () => {
  try {
    const headers = byId("token")?.value ? { Authorization: `Bearer ${byId("token").value}` } : {};
    const response = await fetch("example.mp4", { headers });
    if (!response.ok) throw new Error();
    choose([new File([await response.blob()], "example.mp4", { type: "video/mp4" })]);
  } catch {
    fail("The example cannot be had: enter the access token first, if there is one.");
  }
});

for (const type of ["dragenter", "dragover"])
  addEventListener(type, (event) => {
    event.preventDefault(); // else a clip dropped beside the area would replace the page
    byId("drop").classList.add("over");
  });
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("drop").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  choose(event.dataTransfer.files);
});

function choose(files) {
  if (!files.length) return;
  clips = [...files].map((file) => ({ file, answer: null, error: null }));
  current = null;
  request?.abort();
  request = null;
  byId("again").disabled = false;
  byId("result").hidden = true;
  next();
}

// Stops what is running; clips that wait are left out.
function cancel() {
  for (const clip of clips) if (!clip.answer && !clip.error) clip.error = "Cancelled.";
  const running = request;
  request = null;
  running?.abort();
  end();
  listClips();
  announce("Cancelled");
}

// Analyzes the next clip that has no answer yet.
async function next() {
  byId("error").hidden = true;
  const clip = clips.find((one) => !one.answer && !one.error);
  listClips();
  if (!clip) return;
  current = clip;
  const megabytes = Number(document.body.dataset.megabytes);
  if (clip.file.size > megabytes * 2 ** 20)
    return finish(clip, `The clip has ${(clip.file.size / 2 ** 20).toFixed(1)} MB, more than the ${megabytes} MB allowed.`);
  const token = byId("token");
  if (token && !token.value) {
    fail("Enter the access token of this server first.");
    return token.focus();
  }
  const mode = document.querySelector("input[name=mode]:checked").value;
  const automatic = mode === "auto";
  const overTime = mode === "timeline" || (automatic && (await durationOf(clip.file)) >= LONG_CLIP);
  if (current === clip && !clip.error) send(clip, overTime, automatic, token?.value);
}

// Notes why a clip has no answer, shows it, and goes on with the others.
function finish(clip, error) {
  clip.error = error;
  fail(error);
  listClips();
  if (clips.some((one) => !one.answer && !one.error)) next();
}

// Several clips are listed, each with its result.
function listClips() {
  byId("clips").hidden = clips.length < 2;
  const rows = clips.map((clip) => {
    const row = element("tr", clip === current ? { "aria-current": "true" } : {});
    const name = element("td", {}), result = element("td", {});
    if (clip.answer) {
      const show = element("button", { type: "button" }, clip.file.name);
      show.addEventListener("click", () => showAnswer(clip));
      name.append(show);
      const { violent, probability, events } = clip.answer;
      const value = probability === undefined ? counted(events.length, "event") : percent(probability);
      result.className = violent ? "violent" : "nonviolent";
      result.textContent = `${violent ? "Violent" : "Nonviolent"}, ${value}`;
    } else {
      name.textContent = clip.file.name;
      result.textContent = clip.error ?? (clip === current ? "analyzing…" : "waiting");
    }
    row.append(name, result);
    return row;
  });
  byId("clips").tBodies[0].replaceChildren(...rows);
}

function showAnswer(clip) {
  current = clip;
  byId("error").hidden = true;
  if (clip.answer.frames) showClip(clip.answer);
  else showTimeline(clip.answer);
  listClips();
}

// Resolves to the duration of a clip in seconds, 0 where the browser cannot determine it.
function durationOf(clip) {
  return new Promise((resolve) => {
    const video = document.createElement("video");
    const url = URL.createObjectURL(clip);
    const finish = (seconds) => {
      URL.revokeObjectURL(url);
      resolve(Number.isFinite(seconds) ? seconds : 0);
    };
    video.preload = "metadata";
    video.addEventListener("loadedmetadata", () => finish(video.duration));
    video.addEventListener("error", () => finish(0));
    setTimeout(finish, 3000, 0);
    video.src = url;
  });
}

// ---- requests

function send(clip, overTime, automatic, token) {
  const form = new FormData();
  form.append("video", clip.file, "clip"); // its name stays private
  const xhr = new XMLHttpRequest();
  const lines = overTime ? new Lines() : null;
  request = xhr;
  begin();
  xhr.open("POST", overTime ? "predict/timeline" : "predict?images=true");
  if (token) xhr.setRequestHeader("Authorization", `Bearer ${token}`);
  xhr.upload.addEventListener("progress", (event) => {
    if (event.lengthComputable) showProgress("Uploading", event.loaded / event.total);
  });
  xhr.upload.addEventListener("load", () => showProgress("Analyzing", null));
  xhr.addEventListener("progress", () => {
    if (lines && xhr.status === 200) lines.parse(xhr.responseText);
  });
  const give = (answer) => {
    clip.answer = answer;
    showAnswer(clip);
    if (clips.some((one) => !one.answer && !one.error)) next();
  };
  xhr.addEventListener("load", () => {
    if (request !== xhr) return; // other clips have been chosen
    const pause = Number(xhr.getResponseHeader("Retry-After"));
    if (xhr.status === 503 && pause && waited < LONGEST_WAIT)
      return tryAgain(pause, detailOf(xhr), () => send(clip, overTime, automatic, token));
    end();
    if (xhr.status === 200 && !lines) {
      const result = JSON.parse(xhr.responseText);
      // The last frame gives the duration where the browser could not determine it.
      const isLong = result.frames.at(-1).time >= LONG_CLIP;
      return automatic && isLong ? send(clip, true, false, token) : give(result);
    }
    if (xhr.status === 200) {
      lines.parse(xhr.responseText);
      if (lines.result) return give(lines.result);
      return finish(clip, sentence(lines.problem ?? "the server ended before the prediction"));
    }
    if (xhr.status !== 401) return finish(clip, sentence(problemOf(xhr)));
    fail("Wrong access token.");
    byId("token")?.focus();
  });
  xhr.addEventListener("error", () => {
    if (request !== xhr) return;
    end();
    finish(clip, "The server cannot be reached, or closed the connection.");
  });
  xhr.send(form);
}

// Sends a clip again when the server, whose model is loading or that is busy, asks for it.
let waited = 0; // seconds for the present clip

function tryAgain(seconds, reason, again) {
  waited += seconds;
  showProgress(`Waiting: ${reason}`, null);
  const timer = setTimeout(again, 1000 * seconds);
  request = { abort: () => clearTimeout(timer) };
}

function detailOf(xhr) {
  try {
    return JSON.parse(xhr.responseText).detail;
  } catch {
    return "the server is busy";
  }
}

function problemOf(xhr) {
  try {
    const { detail } = JSON.parse(xhr.responseText);
    const seconds = xhr.getResponseHeader("Retry-After");
    return seconds ? `${detail}; try again in ${seconds} s` : detail;
  } catch {
    return `the server returned status ${xhr.status}`;
  }
}

// The response for a timeline: lines of JSON with the progress, the last one with the result.
class Lines {
  parsed = 0; // characters
  result = null;
  problem = null;

  parse(text) {
    let end;
    while ((end = text.indexOf("\n", this.parsed)) >= 0) {
      const line = JSON.parse(text.slice(this.parsed, end));
      this.parsed = end + 1;
      if ("progress" in line) showProgress("Analyzing", line.progress);
      this.result = line.result ?? this.result;
      this.problem = line.problem?.detail ?? this.problem;
    }
  }
}

// ---- progress and errors

function begin() {
  byId("busy").hidden = false;
  byId("cancel").hidden = false;
  byId("again").disabled = true;
  byId("stage").dataset.stage = "";
  showProgress("Uploading", 0);
}

function end() {
  request = null;
  waited = 0;
  const focused = document.activeElement === byId("cancel");
  byId("busy").hidden = true;
  byId("cancel").hidden = true;
  byId("again").disabled = false;
  if (focused) byId("again").focus();
}

// Shows the progress; screen readers announce only the beginning of a stage.
function showProgress(stage, fraction) {
  const bar = byId("progress");
  if (fraction === null) bar.removeAttribute("value");
  else bar.value = 100 * fraction;
  byId("stage").textContent = fraction === null ? `${stage}…` : `${stage}: ${Math.round(100 * fraction)}%`;
  if (byId("stage").dataset.stage !== stage) announce(stage);
  byId("stage").dataset.stage = stage;
}

function fail(text) {
  byId("result").hidden = true;
  byId("error").textContent = text;
  byId("error").hidden = false;
  announce("");
}

// ---- results

function showClip(result) {
  const weights = result.frames.map((frame) => frame.attention);
  const highest = Math.max(...weights);
  const differ = highest > Math.min(...weights);
  const items = result.frames.map((frame, number) => {
    const label = frame.time === null ? `frame ${number + 1}` : `${frame.time.toFixed(2)} s`;
    const item = element("li", { class: differ && frame.attention === highest ? "largest" : "" });
    const figure = element("figure", {});
    if (frame.image) figure.append(element("img", { src: frame.image, alt: `The clip at ${label}` }));
    const bar = svgElement("svg", { class: "bar", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" });
    bar.append(
      svgElement("rect", { class: "ground", width: 100, height: 6 }),
      svgElement("rect", { class: "bar-fill", width: (100 * frame.attention) / highest, height: 6 }),
    );
    const caption = element("figcaption", {});
    caption.append(element("span", {}, label), element("span", {}, percent(frame.attention)));
    figure.append(bar, caption);
    item.append(figure);
    return item;
  });
  byId("strip").replaceChildren(...items);
  byId("frames").hidden = false;
  byId("over-time").hidden = true;
  show(result, `probability of violence ${percent(result.probability)}`, result.probability);
}

function showTimeline(result) {
  const peak = Math.max(0, ...result.windows.map((window) => window.probability));
  const duration = Math.max(result.duration, 0.001);
  const x = (time) => (1000 * time) / duration;
  const y = (probability) => 195 - 190 * probability;
  const shapes = result.events.map((event) =>
    svgElement("rect", { class: "event", x: x(event.start), width: Math.max(4, x(event.end - event.start)), y: 0, height: 200 }),
  );
  const points = result.windows.map((window) => `${x((window.start + window.end) / 2)},${y(window.probability)}`);
  shapes.push(
    svgElement("line", { class: "threshold", x1: 0, x2: 1000, y1: y(result.threshold), y2: y(result.threshold) }),
    svgElement("polyline", { class: "line", points: points.join(" ") }),
  );
  byId("timeline").replaceChildren(...shapes);
  byId("end").textContent = clock(result.duration);
  byId("timeline-caption").textContent =
    `Probability of violence in ${counted(result.windows.length, "window")} over ${clock(result.duration)}. ` +
    `The dashed line is the threshold.`;
  const rows = result.events.map((event) => {
    const row = element("tr", {});
    for (const cell of [clock(event.start), clock(event.end), clock(event.peak), percent(event.probability)])
      row.append(element("td", {}, cell));
    return row;
  });
  byId("events").tBodies[0].replaceChildren(...rows);
  byId("events").hidden = !rows.length;
  byId("frames").hidden = true;
  byId("over-time").hidden = false;
  const events = rows.length ? counted(rows.length, "violent event") : "no violent event";
  show(result, `${events}, highest probability ${percent(peak)}`, peak);
}

function show(result, finding, probability) {
  const prediction = result.violent ? "violent" : "nonviolent";
  const summary = sentence(`${finding}, threshold ${percent(result.threshold)}`);
  byId("prediction").textContent = result.violent ? "Violent" : "Nonviolent";
  byId("prediction").className = prediction;
  byId("summary").textContent = summary;
  // What concerns the detector stands at the top of the page.
  const shown = byId("detector-warning")?.textContent;
  const warnings = result.warnings.filter((text) => `${text}.` !== shown);
  byId("warnings").replaceChildren(
    ...warnings.map((text) => element("p", { class: "warning" }, sentence(text))),
  );
  const at = 1000 * result.threshold;
  byId("scale").replaceChildren(
    svgElement("rect", { class: "ground", width: 1000, y: 12, height: 16 }),
    svgElement("rect", { class: `${prediction}-fill`, width: 1000 * probability, y: 12, height: 16 }),
    svgElement("line", { class: "mark", x1: at, x2: at, y1: 2, y2: 38 }),
  );
  // Pictures are left out: they are long, and of no use to a reader.
  byId("json").textContent = JSON.stringify(result, (key, value) => (key === "image" ? undefined : value), 2);
  byId("model").textContent = `Analyzed in ${result.seconds.toFixed(2)} s by ${result.model}.`;
  byId("result").hidden = false;
  announce([sentence(prediction), summary, ...warnings.map(sentence)].join(" "));
}

byId("copy").addEventListener("click", async () => {
  const range = document.createRange();
  range.selectNodeContents(byId("json"));
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  // Pages that did not come by https, nor from this machine, have no clipboard but this.
  if (navigator.clipboard) await navigator.clipboard.writeText(byId("json").textContent);
  else document.execCommand("copy");
  announce("Copied");
  byId("copy").textContent = "Copied";
  setTimeout(() => (byId("copy").textContent = "Copy"), 2000);
});

function clock(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}
