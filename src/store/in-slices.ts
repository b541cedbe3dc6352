/** Longest time that work in steps holds the event loop at a stretch, in ms. */
const sliceMs = 4

/** Takes the steps one after the other, and lets everything else have its turn between slices. */
export function inSlices(steps: Iterator<unknown, void>, done: () => void): void {
  const untilMs = performance.now() + sliceMs
  while (performance.now() < untilMs) {
    if (steps.next().done === true) return done()
  }
  setImmediate(() => inSlices(steps, done))
}
