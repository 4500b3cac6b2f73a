// Spectrogram and waveform of a sound, drawn as far as it is known.

const SIZE = 1024; // samples of a window
const RANGE = 70; // dB
const TICKS = [500, 2000, 8000]; // Hz
const MAPS = {
  light: ["#ffffff", "#fdeadb", "#f8b78a", "#e2713d", "#a8333f", "#5c1a4d", "#1d0f33"],
  dark: ["#131216", "#2c1638", "#6a1f55", "#b23a48", "#e8743b", "#f9b77f", "#fff4e3"],
};
const WINDOW = Float32Array.from({ length: SIZE }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / SIZE));
const dark = matchMedia("(prefers-color-scheme: dark)");

/** The loudest point of the whole spectrogram in dB, and the loudest sample: the range of both pictures. */
export function extent(sound) {
  let loudest = -120;
  for (let at = 0; at < sound.known; at += SIZE) {
    for (const level of spectrum(sound.samples, at)) if (level > loudest) loudest = level;
  }
  const peak = sound.samples.reduce((most, x) => Math.max(most, Math.abs(x)), 1e-4);
  return { loudest, peak };
}

export class Picture {
  constructor(figure) {
    this._spectrogram = figure.querySelector(".spectrogram");
    this._wave = figure.querySelector(".wave");
    this._cursor = figure.querySelector(".cursor");
    this._scale = figure.querySelector(".scale");
    this._sound = null;
    new ResizeObserver(() => this._restart()).observe(this._spectrogram);
    dark.addEventListener("change", () => this._restart());
  }

  show(sound, { loudest, peak }) {
    Object.assign(this, { _sound: sound, _loudest: loudest, _peak: peak });
    const ticks = TICKS.filter((hertz) => hertz < 0.4 * sound.rate).map((hertz) => {
      const tick = document.createElement("span");
      tick.textContent = `${hertz / 1000} kHz`;
      tick.style.bottom = `${(100 * Math.log1p(hertz / 700)) / Math.log1p(sound.rate / 1400)}%`;
      return tick;
    });
    this._scale.replaceChildren(...ticks);
    this._restart();
  }

  /** Draws what has come since. */
  draw() {
    if (!this._sound || !this._spectrogram.width) return;
    const { samples, known, complete } = this._sound;
    const width = this._spectrogram.width;
    const ready = complete ? width : Math.floor((Math.max(0, known - SIZE / 2) / samples.length) * width);
    if (ready <= this._drawn) return;
    this._drawSpectrogram(this._drawn, ready);
    this._drawWave(this._drawn, ready);
    this._drawn = ready;
  }

  /** Moves the cursor to a share of the width. */
  point(share) {
    this._cursor.style.left = `calc(${Math.min(1, share)} * (100% - 1px))`;
  }

  _restart() {
    for (const canvas of [this._spectrogram, this._wave]) {
      canvas.width = Math.round(canvas.clientWidth * devicePixelRatio);
      canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);
    }
    this._map = colours(MAPS[dark.matches ? "dark" : "light"]);
    this._drawn = 0;
    this.draw();
  }

  _drawSpectrogram(from, to) {
    const { samples, rate } = this._sound;
    const { width, height } = this._spectrogram;
    const image = new ImageData(to - from, height);
    const pixels = new Uint32Array(image.data.buffer);
    const bins = melBins(height, rate);
    for (let x = from; x < to; x++) {
      const levels = spectrum(samples, Math.round(((x + 0.5) / width) * samples.length) - SIZE / 2);
      for (let y = 0; y < height; y++) {
        const bin = Math.min(Math.floor(bins[y]), SIZE / 2 - 2);
        const level = levels[bin] + (bins[y] - bin) * (levels[bin + 1] - levels[bin]);
        const share = 1 + (level - this._loudest) / RANGE;
        pixels[y * image.width + x - from] = this._map[Math.round(255 * Math.min(1, Math.max(0, share)))];
      }
    }
    this._spectrogram.getContext("2d").putImageData(image, from, 0);
  }

  _drawWave(from, to) {
    const { samples } = this._sound;
    const { width, height } = this._wave;
    const context = this._wave.getContext("2d");
    context.fillStyle = getComputedStyle(this._wave).color;
    for (let x = from; x < to; x++) {
      let [low, high] = [0, 0];
      const end = Math.ceil(((x + 1) / width) * samples.length);
      for (let t = Math.floor((x / width) * samples.length); t < end; t++) {
        low = Math.min(low, samples[t]);
        high = Math.max(high, samples[t]);
      }
      const scale = height / 2 / this._peak / 1.05;
      context.fillRect(x, height / 2 - high * scale, 1, Math.max(1, (high - low) * scale));
    }
  }
}

/** Levels in dB of the SIZE samples from `start`; outside the sound there is silence. */
function spectrum(samples, start) {
  const re = Float32Array.from(WINDOW, (weight, n) => weight * (samples[start + n] ?? 0));
  const im = new Float32Array(SIZE);
  transform(re, im);
  return Float32Array.from({ length: SIZE / 2 }, (_, k) => 10 * Math.log10(re[k] ** 2 + im[k] ** 2 + 1e-12));
}

const COS = Float32Array.from({ length: SIZE / 2 }, (_, k) => Math.cos((2 * Math.PI * k) / SIZE));
const SIN = Float32Array.from({ length: SIZE / 2 }, (_, k) => -Math.sin((2 * Math.PI * k) / SIZE));

/** The discrete Fourier transform of SIZE points, in place (Cooley and Tukey 1965). */
function transform(re, im) {
  for (let i = 1, j = 0; i < SIZE; i++) {
    let bit = SIZE >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [re[i], re[j], im[i], im[j]] = [re[j], re[i], im[j], im[i]];
  }
  for (let half = 1; half < SIZE; half *= 2) {
    const step = SIZE / (2 * half);
    for (let first = 0; first < SIZE; first += 2 * half) {
      for (let k = 0; k < half; k++) {
        const [a, b] = [first + k, first + k + half];
        const [cos, sin] = [COS[k * step], SIN[k * step]];
        const real = re[b] * cos - im[b] * sin;
        const imaginary = re[b] * sin + im[b] * cos;
        [re[b], im[b]] = [re[a] - real, im[a] - imaginary];
        [re[a], im[a]] = [re[a] + real, im[a] + imaginary];
      }
    }
  }
}

/** The bin of every row, from the top down, even in mel. */
function melBins(height, rate) {
  const top = Math.log1p(rate / 2 / 700);
  return Float32Array.from({ length: height }, (_, y) => {
    const hertz = 700 * Math.expm1((1 - (y + 0.5) / height) * top);
    return (hertz / rate) * SIZE;
  });
}

/** 256 colours between the stops, as pixels. */
function colours(stops) {
  const points = stops.map((stop) => [1, 3, 5].map((at) => parseInt(stop.slice(at, at + 2), 16)));
  return Uint32Array.from({ length: 256 }, (_, n) => {
    const place = (n / 255) * (points.length - 1);
    const index = Math.min(Math.floor(place), points.length - 2);
    const [r, g, b] = points[index].map((from, c) => from + (place - index) * (points[index + 1][c] - from));
    return (255 << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r);
  });
}
