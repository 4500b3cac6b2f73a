// Plays sounds on the Web Audio clock while they are still coming, at any speed without changing the pitch.
//
// Speed is WSOLA (Verhelst and Roelands 1993): what was said is faded into the most similar piece near the place where
// the new speed wants to be. At speed 1 the most similar piece is what comes next, and nothing is changed.

const AHEAD = 0.4; // s that are scheduled
const TICK = 60; // ms
const FADE = 0.02; // s
const SEARCH = 0.01; // s

export class Player {
  /** `changed` is called whenever it starts, waits or stops. */
  constructor(context, changed) {
    this.context = context;
    this.changed = changed;
    this.speed = 1;
    this.sound = null;
    this._place = 0; // s, while nothing plays
    this._sources = [];
  }

  get playing() {
    return this.sound !== null;
  }

  /** Seconds into the sound. */
  get position() {
    if (!this.playing) return this._place;
    const now = this.context.currentTime;
    const piece = this._sources.findLast((source) => source.from <= now) ?? this._sources[0];
    if (!piece) return this._at / this.sound.rate;
    return piece.place + Math.min(Math.max(0, now - piece.from), piece.length) * piece.speed;
  }

  play(sound, place = this.position) {
    this.stop();
    this.context.resume();
    this.sound = sound;
    this._at = Math.round((place < sound.seconds - 0.05 ? place : 0) * sound.rate);
    this._said = this._at;
    this._when = 0;
    this._timer = setInterval(() => this._schedule(), TICK);
    this._schedule();
    this.changed();
  }

  stop() {
    if (!this.playing) return;
    this._place = this.position;
    clearInterval(this._timer);
    for (const source of this._sources) source.node.stop();
    this._sources = [];
    this.sound = null;
    this.changed();
  }

  seek(place) {
    if (this.playing) this.play(this.sound, place);
    else this._place = place;
  }

  setSpeed(speed) {
    const place = this.position;
    this.speed = speed;
    if (this.playing) this.play(this.sound, place);
  }

  _schedule() {
    const now = this.context.currentTime;
    const { rate, samples, complete } = this.sound;
    this._sources = this._sources.filter((source) => source.from + source.length > now);
    while (this._when < now + AHEAD) {
      const place = this._at / rate;
      const blocks = [];
      while (blocks.length < 5) {
        const block = this._block();
        if (!block) break;
        blocks.push(block);
      }
      if (!blocks.length) {
        if (complete && !this._sources.length) {
          this.stop();
          this._place = samples.length / rate;
          this.changed();
        }
        return; // or more must come
      }
      const buffer = this.context.createBuffer(1, blocks.length * blocks[0].length, rate);
      blocks.forEach((block, n) => buffer.copyToChannel(block, 0, n * block.length));
      const node = new AudioBufferSourceNode(this.context, { buffer });
      node.connect(this.context.destination);
      const from = Math.max(this._when, now + 0.02);
      node.start(from);
      this._when = from + buffer.duration;
      this._sources.push({ node, from, place, length: buffer.duration, speed: this.speed });
    }
  }

  /** The next samples to be heard, or null where they are not known yet. */
  _block() {
    const { samples, known, complete, rate } = this.sound;
    const fade = Math.round(FADE * rate);
    const search = this.speed === 1 ? 0 : Math.round(SEARCH * rate);
    const wanted = this._at + Math.round((this.speed - 1) * fade);
    if (this._at >= (complete ? known : known - fade - search - Math.max(0, wanted - this._at))) return null;
    const next = search ? mostSimilar(samples, this._said, wanted, fade, search) : this._said;
    const block = new Float32Array(fade);
    for (let i = 0; i < fade; i++) {
      const weight = 0.5 - 0.5 * Math.cos((Math.PI * i) / fade);
      block[i] = (samples[this._said + i] ?? 0) * (1 - weight) + (samples[next + i] ?? 0) * weight;
    }
    this._said = next + fade;
    this._at = wanted + fade;
    return block;
  }
}

/** The start within `search` of `wanted` from which `length` samples are most like those from `said`. */
function mostSimilar(samples, said, wanted, length, search) {
  let best = wanted;
  let most = -Infinity;
  for (let start = Math.max(0, wanted - search); start <= wanted + search; start += 2) {
    let product = 0;
    let energy = 1e-9;
    for (let i = 0; i < length && start + i < samples.length; i += 2) {
      product += samples[said + i] * samples[start + i] || 0;
      energy += samples[start + i] ** 2;
    }
    const likeness = product / Math.sqrt(energy);
    if (likeness > most) [best, most] = [start, likeness];
  }
  return best;
}
