/** Progress in a terminal: a bar that is redrawn in place, or plain lines where there is no terminal. */
import type { WriteStream } from 'node:tty'
import { duration, mebibytes } from './text.ts'

const redrawEvery = 80
/** Speed is what was moved in this time, ms: long enough to be calm, short enough to follow a change. */
const speedWindow = 3_000
/** Without a terminal, one line per this share. */
const lineStep = 0.1

export class ProgressBar {
  readonly #out: WriteStream
  readonly #total: number
  readonly #samples: { time: number; done: number }[] = []
  #drawnAt = 0
  #drawn = false
  #nextLine = lineStep

  constructor(out: WriteStream, total: number) {
    this.#out = out
    this.#total = total
  }

  update(done: number): void {
    const now = performance.now()
    this.#samples.push({ time: now, done })
    while (now - (this.#samples[0]?.time ?? now) > speedWindow) this.#samples.shift()
    if (this.#out.isTTY) {
      if (now - this.#drawnAt >= redrawEvery) this.#draw(done)
    } else if (done / this.#total >= this.#nextLine) {
      this.#out.write(`  ${this.#figures(done)}\n`)
      this.#nextLine = Math.floor(done / this.#total / lineStep + 1) * lineStep
    }
  }

  /** A pause: what was moved before it says nothing about the speed after it. */
  restart(): void {
    this.#samples.length = 0
  }

  /** Prints lines above the bar. */
  say(text: string): void {
    this.clear()
    this.#out.write(`${text}\n`)
  }

  clear(): void {
    if (this.#drawn) this.#out.write('\r\x1b[K')
    this.#drawn = false
  }

  #draw(done: number): void {
    const figures = this.#figures(done)
    const width = Math.max(10, Math.min(40, (this.#out.columns || 80) - figures.length - 7))
    const filled = Math.round((Math.min(done, this.#total) / this.#total) * width)
    this.#out.write(`\r\x1b[K  [${'#'.repeat(filled)}${'.'.repeat(width - filled)}] ${figures}`)
    this.#drawn = true
    this.#drawnAt = performance.now()
  }

  #figures(done: number): string {
    const first = this.#samples[0]
    const last = this.#samples.at(-1)
    const elapsed = first && last ? (last.time - first.time) / 1000 : 0
    const speed = first && last && elapsed > 0 ? Math.max(0, last.done - first.done) / elapsed : 0
    const percent = `${Math.floor((done / this.#total) * 100)} %`.padStart(5)
    const left = duration(speed > 0 ? (this.#total - done) / speed : Number.POSITIVE_INFINITY)
    return `${percent}  ${mebibytes(done)}  ${mebibytes(speed)}/s  ${left} left`
  }
}
