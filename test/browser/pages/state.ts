/** What the tests read of a page, in `window.state`. */
export interface State {
  /** As a progress bar would show it, rounded down. */
  percent: number
  /** Of the uploaded file; absolute. */
  url: string | null
  error: string | null
}
