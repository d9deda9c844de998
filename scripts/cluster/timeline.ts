/** What happened, with the seconds since the start. */
export class Timeline {
  readonly #out: NodeJS.WritableStream
  readonly #start = performance.now()

  constructor(out: NodeJS.WritableStream) {
    this.#out = out
  }

  /** Seconds. */
  get now(): number {
    return (performance.now() - this.#start) / 1000
  }

  say(who: string, what: string): void {
    this.#out.write(`${this.now.toFixed(1).padStart(6)} s  ${who.padEnd(13)} ${what}\n`)
  }

  /** A line without a time. */
  print(text: string): void {
    this.#out.write(`${text}\n`)
  }
}
