/** What the page and the client libraries have to say to each other. No runtime. */

/** What the buttons of an upload do. */
export interface Controls {
  pause(): void
  resume(): void
  /** Gives the upload up, on the server too if the library does that. */
  cancel(): void
  /** After a failure. */
  retry(): void
}

/** What a library tells of one upload. */
export interface Report {
  /** Bytes that were sent so far. */
  progress(bytes: number): void
  /** Paused or resumed by the library's own buttons. */
  paused(isPaused: boolean): void
  /** The file is stored; its URL, absolute or not. */
  done(url: string): void
  failed(message: string): void
  /** The library's own buttons gave it up. */
  cancelled(): void
}

/** Puts an upload on the page. */
export type Begin = (file: File, controls: Controls) => Report

export interface Client {
  add(files: readonly File[]): void
}

/** A client library, ready for files. `dashboard` is room for what it wants to show itself. */
export type Connect = (begin: Begin, dashboard: HTMLElement) => Client
