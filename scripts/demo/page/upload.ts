/** One upload as the page sees it, whatever library does the work. No DOM: what to show is told by `onChange`. */
import { type Check, checkStored } from './check.ts'
import type { Begin, Controls, Report } from './clients/client.ts'
import { percentOf } from './format.ts'
import { tell } from './log.ts'

/** Speed is what was moved in this time, ms: long enough to be calm, short enough to follow a change. */
const speedWindow = 3_000

export type State =
  | 'uploading'
  | 'interrupted'
  | 'paused'
  | 'checking'
  | 'identical'
  | 'different'
  | 'failed'
  | 'cancelled'

const working: readonly State[] = ['uploading', 'interrupted', 'paused']

export class Upload implements Report {
  readonly file: File
  readonly clientName: string
  readonly controls: Controls
  state: State = 'uploading'
  /** Bytes that the library says it has sent. */
  bytes = 0
  message = ''
  url = ''
  check: Check | null = null
  /** How often network or server went away while it was under way. */
  interruptions = 0
  readonly #onChange: (upload: Upload) => void
  readonly #samples: { time: number; bytes: number }[] = []
  #isLineUp = true
  #backSince = 0

  constructor([file, controls]: Parameters<Begin>, clientName: string, onChange: (upload: Upload) => void) {
    this.file = file
    this.controls = controls
    this.clientName = clientName
    this.#onChange = onChange
  }

  get isWorking(): boolean {
    return working.includes(this.state)
  }

  get percent(): number {
    return percentOf(this.bytes, this.file.size)
  }

  /** Bytes per second over the last moments. */
  get speed(): number {
    const now = performance.now()
    const recent = this.#samples.filter(({ time }) => now - time <= speedWindow)
    const [first] = recent
    if (!first || now - first.time < 300) return 0
    return Math.max(0, ((this.bytes - first.bytes) / (now - first.time)) * 1000)
  }

  progress(bytes: number): void {
    if (!this.isWorking) return
    const now = performance.now()
    const forward = bytes > this.bytes
    // What was lost with the line comes off the figure: the speed is measured from there.
    if (bytes < this.bytes) this.#samples.length = 0
    this.bytes = Math.min(bytes, this.file.size)
    this.#samples.push({ time: now, bytes: this.bytes })
    while (now - (this.#samples[0]?.time ?? now) > speedWindow) this.#samples.shift()
    if (this.state === 'interrupted' && this.#isLineUp && forward) {
      const seconds = ((now - this.#backSince) / 1000).toFixed(1)
      tell(`${this.file.name} goes on at ${this.percent} %, ${seconds} s after the way was free again.`)
      this.#set('uploading')
    }
  }

  paused(isPaused: boolean): void {
    if (!this.isWorking || isPaused === (this.state === 'paused')) return
    tell(isPaused ? `${this.file.name} paused at ${this.percent} %.` : `${this.file.name} resumed.`)
    this.#samples.length = 0
    this.#set(isPaused ? 'paused' : 'uploading')
  }

  pause(): void {
    this.controls.pause()
    this.paused(true)
  }

  resume(): void {
    this.paused(false)
    this.controls.resume()
  }

  retry(): void {
    tell(`${this.file.name}: trying again.`)
    this.#set('uploading')
    this.controls.retry()
  }

  cancel(): void {
    this.cancelled()
    this.controls.cancel()
  }

  cancelled(): void {
    if (!this.isWorking) return
    tell(`${this.file.name} cancelled.`)
    this.#set('cancelled')
  }

  failed(message: string): void {
    if (!this.isWorking) return
    tell(`${this.file.name} failed. ${message}`)
    this.#set('failed', message)
  }

  done(url: string): void {
    if (!this.isWorking) return
    this.bytes = this.file.size
    this.url = url
    this.#set('checking')
    void this.#compare(url)
  }

  /** Network or server have gone, or are back. */
  lineChanged(isUp: boolean): void {
    if (isUp && !this.#isLineUp) this.#backSince = performance.now()
    this.#isLineUp = isUp
    if (isUp || this.state !== 'uploading') return
    this.interruptions++
    this.#samples.length = 0
    this.#set('interrupted')
  }

  async #compare(url: string): Promise<void> {
    try {
      this.check = await checkStored(this.file, url)
    } catch (error) {
      tell(`${this.file.name} was sent, but not compared. ${(error as Error).message}`)
      this.#set('failed', (error as Error).message)
      return
    }
    const identical = this.check.here === this.check.stored
    tell(`${this.file.name} is stored. ${identical ? 'Identical: both checksums are the same.' : 'It is DIFFERENT.'}`)
    this.#set(identical ? 'identical' : 'different')
  }

  #set(state: State, message = ''): void {
    this.state = state
    this.message = message
    this.#onChange(this)
  }
}
