/** What the demo's server tells the page whenever it changes. */
export interface Status {
  readonly network: 'up' | 'cut'
  /** Bytes per second; `null` for no limit. */
  readonly speed: number | null
  /** `null` while it is dead. */
  readonly serverPid: number | null
  /** How many requests the last cut or kill broke. */
  readonly broken: number
}
