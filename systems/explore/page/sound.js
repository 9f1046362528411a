// Touches as sound: a tap is a note, a swipe a glide; across is the pitch, up is brighter. Web Audio, nothing is loaded.

export const TAP = 0.1;  // seconds without a touch, after which the next one is a new tap
const STEPS = [0, 2, 4, 7, 9], LOWEST = 196, OCTAVES = 3;

export function pitch(x) {
  const k = Math.round(Math.min(1, Math.max(0, x)) * (STEPS.length * OCTAVES - 1));
  return LOWEST * 2 ** (Math.floor(k / STEPS.length) + STEPS[k % STEPS.length] / 12);
}

export function strokes(touches) {
  const found = [];
  touches.forEach((touch, i) => {
    if (i && touch[2] - touches[i - 1][2] <= TAP) found[found.length - 1].push(touch);
    else found.push([touch]);
  });
  return found;
}

// Schedule all notes on an audio context, from its time `at` on; `voice` tells two players apart. Returns the end.
export function play(context, touches, at, voice, output) {
  let end = at;
  for (const stroke of strokes(touches)) {
    const start = at + stroke[0][2], last = at + stroke[stroke.length - 1][2], stop = last + 0.35;
    const tone = new OscillatorNode(context, { type: voice ? "sawtooth" : "triangle", frequency: pitch(stroke[0][0]) });
    const filter = new BiquadFilterNode(context, { type: "lowpass", frequency: 600 + 4000 * (1 - stroke[0][1]) });
    const level = new GainNode(context, { gain: 0 });
    for (const [x, y, t] of stroke.slice(1)) {
      tone.frequency.setTargetAtTime(pitch(x), at + t, 0.012);
      filter.frequency.setTargetAtTime(600 + 4000 * (1 - y), at + t, 0.012);
    }
    level.gain.setValueAtTime(0, start);
    level.gain.linearRampToValueAtTime(voice ? 0.12 : 0.22, start + 0.008);
    level.gain.setTargetAtTime(0, last + 0.03, 0.07);
    tone.connect(filter).connect(level).connect(output);
    tone.start(start);
    tone.stop(stop);
    end = Math.max(end, stop);
  }
  return end;
}
