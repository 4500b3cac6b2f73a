// The page: what is given, how it shall be spoken, what is heard.

import { Picture, extent } from "./picture.js";
import { Player } from "./player.js";
import { Refusal, ask, show, shown } from "./server.js";
import { Sound, decode, pcmReader, record, wav } from "./sound.js";

const READ = ["audio/wav", "audio/x-wav", "audio/wave", "audio/flac", "audio/x-flac", "audio/ogg", "audio/mpeg"];
const $ = (id) => document.getElementById(id);
const pictures = { original: new Picture($("original")), voice: new Picture($("voice")) };
const plays = { original: $("original").querySelector(".play"), voice: $("voice").querySelector(".play") };
const sounds = { original: null, voice: null };
let models = [];
let context, player, given, body, range, recording, asking, speaking, arrive;
const arrived = new Promise((resolve) => (arrive = resolve));

const seconds = (value) => `${value.toFixed(1)} s`;
const say = (text) => ($("status").textContent = text);

// Errors stand beside the control that they are about.

function complain(control, text) {
  $(`${control}-error`).textContent = text;
  $(control === "sound" ? "file" : control).setAttribute("aria-invalid", "true");
}

function forgive() {
  for (const error of document.querySelectorAll(".error[id]")) error.textContent = "";
  for (const control of document.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
}

function refused(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Refusal)) throw error;
  say("");
  if (error.status === 401) knock();
  else complain($(error.control)?.parentElement.hidden ? "speak" : error.control, error.message);
}

// Who is there

async function meet() {
  forgive();
  try {
    ({ models } = await (await ask("v1/models")).json());
  } catch (error) {
    if (error.status === 503) {
      say(error.message);
      setTimeout(meet, 1000 * (error.wait || 1));
      return;
    }
    if (error.status === 401) return refused(error);
    $("who").textContent = error.message;
    return;
  }
  say("");
  $("door").hidden = true;
  $("source").hidden = false;
  $("settings").hidden = $("listen").hidden = !sounds.original;
  $("model").replaceChildren(...models.map(({ name }) => new Option(name)));
  $("model").parentElement.hidden = models.length < 2;
  await choose();
}

function knock() {
  const wrong = shown();
  show("");
  $("door").hidden = false;
  $("source").hidden = $("settings").hidden = $("listen").hidden = true;
  if (wrong) complain("token", "That is not its token.");
  $("token").focus();
}

const chosen = () => models.find(({ name }) => name === $("model").value);

async function choose() {
  const { name, sample_rate: rate, speakers } = chosen();
  $("who").textContent = `speaks as ${name}, ${rate / 1000} kHz`;
  $("speaker").replaceChildren(...speakers.map((speaker) => new Option(speaker)));
  $("speaker").parentElement.hidden = speakers.length < 2;
  if (context?.sampleRate === rate) return;
  stopAll();
  await context?.close();
  context = new AudioContext({ sampleRate: rate });
  player = new Player(context, update);
  player.speed = Number($("speed").value);
  arrive();
  if (given) await give(given, $("title").textContent);
}

// What is given

async function give(blob, title) {
  await arrived;
  forgive();
  stopAll();
  try {
    const sound = await decode(blob, context, title);
    sounds.original = sound;
    sounds.voice = null;
    given = blob;
    body = READ.includes(blob.type) ? blob : wav(sound);
  } catch (error) {
    complain("sound", error.message);
    return;
  }
  const length = seconds(sounds.original.seconds);
  $("invitation").hidden = true;
  $("given").hidden = $("settings").hidden = $("listen").hidden = false;
  $("source").classList.add("small");
  $("title").textContent = title;
  $("length").textContent = length;
  $("name").textContent = chosen().name;
  range = extent(sounds.original);
  pictures.original.show(sounds.original, range);
  pictures.voice.show(new Sound(context.sampleRate, sounds.original.samples.length), range);
  $("position").max = sounds.original.seconds;
  $("save").hidden = $("far").hidden = true;
  $("facts").textContent = "not spoken yet";
  $("progress").value = 0;
  player.seek(0);
  update();
  say(`${title}, ${length}. Ready to be spoken.`);
}

async function toggleRecording() {
  if (asking) return; // the button keeps the focus, which a disabled one loses
  forgive();
  if (recording) {
    const { stop, timer } = recording;
    recording = null;
    clearInterval(timer);
    $("record").textContent = "Record";
    $("record").classList.remove("live");
    say("");
    await give(await stop(), "Your recording");
    return;
  }
  stopAll();
  asking = true;
  try {
    recording = await record();
  } catch (error) {
    complain("sound", error.message);
    return;
  } finally {
    asking = false;
  }
  const began = performance.now();
  const tell = () => ($("record").textContent = `Stop ${seconds((performance.now() - began) / 1000)}`);
  recording.timer = setInterval(tell, 100);
  tell();
  $("record").classList.add("live");
  say("Recording.");
}

// How it is spoken

function stopAll() {
  speaking?.abort();
  player?.stop();
}

async function speak() {
  if (speaking) return stopAll();
  forgive();
  const { name } = chosen();
  const query = new URLSearchParams({ format: "s16", model: name, seed: $("seed").value.trim() });
  query.set("temperature", $("temperature").value);
  if (!$("speaker").parentElement.hidden) query.set("speaker", $("speaker").value);
  const request = { method: "POST", body, headers: { "Content-Type": body.type } };
  player.stop();
  context.resume(); // while the click is what asks for it
  speaking = new AbortController();
  update();
  say("Asking.");
  try {
    const answer = await ask(`v1/stream?${query}`, { ...request, signal: speaking.signal });
    await hear(answer, name);
  } catch (error) {
    refused(error);
  } finally {
    speaking = null;
    update();
  }
}

async function hear(answer, name) {
  const number = (header) => Number(answer.headers.get(header));
  const sound = new Sound(number("X-Sample-Rate"), number("X-Samples"));
  sounds.voice = sound;
  $("name").textContent = name;
  $("save").hidden = true;
  warn(answer.headers.get("X-Distance"), name);
  pictures.voice.show(sound, range);
  player.play(sound, 0);
  const read = pcmReader();
  say("Speaking.");
  try {
    for (const reader = answer.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      sound.append(read(value));
      pictures.voice.draw();
      $("progress").value = sound.known / sound.samples.length;
      const made = sound.known / sound.rate;
      $("facts").textContent = `${seconds(made)} of ${seconds(sound.seconds)}`;
    }
  } catch (error) {
    if (error.name !== "AbortError") complain("speak", "The connection broke off: speak again.");
    sound.samples = sound.samples.slice(0, sound.known);
  }
  sound.complete = true;
  if (sound.known && sounds.voice === sound) finish(sound, name);
}

function finish(sound, name) {
  pictures.voice.show(sound, range);
  $("progress").value = 0;
  $("facts").textContent = seconds(sound.seconds);
  URL.revokeObjectURL($("save").href);
  $("save").href = URL.createObjectURL(wav(sound));
  $("save").download = `${$("title").textContent.replace(/\.[^.]*$/, "")} by ${name}.wav`;
  $("save").hidden = false;
  say(`Spoken: ${seconds(sound.seconds)}.`);
}

function warn(distance, name) {
  $("far").hidden = !(Number(distance) > 1);
  if (!$("far").hidden) {
    $("far").textContent =
      `This sound is far from what ${name} was trained on (${Number(distance).toFixed(1)} times the usual ` +
      "limit). It speaks as well as it can.";
  }
}

// What is heard

function toggle(which) {
  if (player.playing && player.sound === sounds[which]) player.stop();
  else player.play(sounds[which]);
}

function update() {
  for (const [which, button] of Object.entries(plays)) {
    const on = player.playing && player.sound === sounds[which];
    button.disabled = !sounds[which];
    button.setAttribute("aria-pressed", on);
  }
  $("speak").textContent = speaking ? "Stop" : "Speak";
  $("voice").setAttribute("aria-busy", Boolean(speaking));
  point();
  if (player.playing) requestAnimationFrame(frame);
}

let framed = 0;

function frame(time) {
  if (time === framed) return;
  framed = time;
  point();
  if (player.playing) requestAnimationFrame(frame);
}

function point() {
  if (!sounds.original) return;
  const { position } = player;
  for (const [which, picture] of Object.entries(pictures)) {
    picture.point(position / (sounds[which] ?? sounds.original).seconds);
  }
  $("position").value = position;
  $("clock").textContent = `${position.toFixed(1)} / ${seconds(sounds.original.seconds)}`;
  $("position").setAttribute("aria-valuetext", seconds(position));
}

function seek(place) {
  player.seek(place);
  point();
}

// Controls

for (const name of ["temperature", "speed"]) {
  const tell = () => {
    document.querySelector(`output[for=${name}]`).textContent = Number($(name).value).toFixed(2);
  };
  $(name).addEventListener("input", tell);
  tell();
}
for (const [which, button] of Object.entries(plays)) button.addEventListener("click", () => toggle(which));
for (const picture of document.querySelectorAll(".picture")) {
  picture.addEventListener("click", (event) => {
    const { left, width } = picture.getBoundingClientRect();
    seek(((event.clientX - left) / width) * sounds.original.seconds);
  });
}
$("position").addEventListener("input", () => seek(Number($("position").value)));
$("speed").addEventListener("input", () => player.setSpeed(Number($("speed").value)));
$("model").addEventListener("change", choose);
$("next").addEventListener("click", () => {
  $("seed").value = /^\d+$/.test($("seed").value.trim()) ? String(BigInt($("seed").value.trim()) + 1n) : "0";
});
$("settings").addEventListener("submit", (event) => {
  event.preventDefault();
  speak();
});
$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  show($("token").value);
  $("token").value = "";
  meet();
});
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) give(file, file.name);
  $("file").value = "";
});
$("record").addEventListener("click", toggleRecording);
if (!navigator.mediaDevices || !window.MediaRecorder) {
  $("record").disabled = true;
  $("record").title = "A browser records only on https or on this machine itself";
}
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("source").classList.toggle("over", kind === "dragover");
    const [file] = event.dataTransfer?.files ?? [];
    if (kind === "drop" && file) give(file, file.name);
  });
}

meet();
