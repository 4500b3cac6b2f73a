// Sounds in memory, from files, from the microphone, and as wav files.

/** Samples that may still be coming. */
export class Sound {
  constructor(rate, total) {
    this.rate = rate;
    this.samples = new Float32Array(total);
    this.known = 0;
    this.complete = false;
  }

  get seconds() {
    return this.samples.length / this.rate;
  }

  append(samples) {
    this.samples.set(samples.subarray(0, this.samples.length - this.known), this.known);
    this.known = Math.min(this.samples.length, this.known + samples.length);
  }
}

/** A file as mono at the context's rate. Throws an Error that can be shown. */
export async function decode(blob, context, title) {
  let buffer;
  try {
    buffer = await context.decodeAudioData(await blob.arrayBuffer());
  } catch {
    throw new Error(`This browser finds no sound in ${title}: choose a WAV, FLAC, Ogg or MP3 file.`);
  }
  const sound = new Sound(buffer.sampleRate, buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    const samples = buffer.getChannelData(channel);
    for (let t = 0; t < samples.length; t++) sound.samples[t] += samples[t] / buffer.numberOfChannels;
  }
  sound.known = buffer.length;
  sound.complete = true;
  return sound;
}

/** Begins to record; the answer's `stop()` promises the recording. Throws an Error that can be shown. */
export async function record() {
  let stream;
  try {
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
  } catch (error) {
    throw new Error(`The microphone cannot be used (${error.message}): allow it for this page, or choose a file.`);
  }
  const recorder = new MediaRecorder(stream);
  const pieces = [];
  recorder.ondataavailable = (event) => pieces.push(event.data);
  const ended = new Promise((resolve) => (recorder.onstop = resolve));
  recorder.start();
  return {
    async stop() {
      recorder.stop();
      await ended;
      for (const track of stream.getTracks()) track.stop();
      return new Blob(pieces, { type: recorder.mimeType });
    },
  };
}

/** A mono wav file of 16 bits. */
export function wav({ samples, known, rate }) {
  const view = new DataView(new ArrayBuffer(44 + 2 * known));
  const write = (offset, text) => [...text].forEach((c, i) => view.setUint8(offset + i, c.charCodeAt(0)));
  write(0, "RIFF");
  view.setUint32(4, 36 + 2 * known, true);
  write(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  write(36, "data");
  view.setUint32(40, 2 * known, true);
  for (let t = 0; t < known; t++) {
    view.setInt16(44 + 2 * t, Math.max(-32768, Math.min(32767, Math.round(samples[t] * 32768))), true);
  }
  return new Blob([view], { type: "audio/wav" });
}

/** Bytes of little-endian 16-bit samples, cut anywhere, -> samples. */
export function pcmReader() {
  let rest = new Uint8Array(0);
  return (bytes) => {
    const all = new Uint8Array(rest.length + bytes.length);
    all.set(rest);
    all.set(bytes, rest.length);
    const count = all.length >> 1;
    rest = all.slice(2 * count);
    const view = new DataView(all.buffer);
    return Float32Array.from({ length: count }, (_, t) => view.getInt16(2 * t, true) / 32768);
  };
}
