/** What every page of the tests does: takes files from its input, hands them to a library, keeps what that one tells. */
import type { State } from './state.ts'

export interface Settings {
  /** Of the upload server; the page may come from elsewhere. */
  readonly server: string
  /** With what the documents recommend for outages, where the library's defaults give up early. */
  readonly patient: boolean
  /** Few parts or chunks at a time where a library sends many big ones: a break costs what it has sent of each. */
  readonly few: boolean
}

export interface Report {
  /** From 0 to 1. */
  progress(share: number): void
  done(url: string): void
  failed(message: string): void
}

declare global {
  interface Window {
    state: State
  }
}

export function page(start: (settings: Settings, report: Report) => (file: File) => void): void {
  const query = new URLSearchParams(location.search)
  const settings = {
    server: query.get('server') ?? location.origin,
    patient: query.has('patient'),
    few: query.has('few'),
  }
  const state: State = { percent: 0, url: null, error: null }
  window.state = state
  const add = start(settings, {
    progress(share) {
      state.percent = Math.floor(share * 100)
    },
    done(url) {
      state.url = new URL(url, settings.server).href
    },
    failed(message) {
      state.error = message
    },
  })
  const input = document.querySelector('input') as HTMLInputElement
  input.addEventListener('change', () => {
    state.percent = 0
    state.url = null
    state.error = null
    for (const file of input.files ?? []) add(file)
    // Choosing the same file again is a change too.
    input.value = ''
  })
}
