/** Whether what several callers saw of one record could have happened one call after the other. */

/** The record: its version and content. */
export type State = { readonly version: number; readonly key: string } | null

export type Call =
  | { readonly kind: 'create'; readonly key: string; result?: boolean }
  | { readonly kind: 'replace'; readonly expected: number; readonly key: string; result?: boolean }
  | { readonly kind: 'get'; result?: State }
  | { readonly kind: 'delete'; result?: true }

/** A call from `start` to `end`, two points of one clock. `end` is infinite when its caller was killed. */
export interface Recorded {
  readonly call: Call
  readonly start: number
  end: number
}

export function isLinearizable(history: readonly Recorded[]): boolean {
  const tried = new Set<string>()
  const search = (done: number, state: State): boolean => {
    const open = history
      .map((recorded, index) => ({ ...recorded, index }))
      .filter(({ index }) => !(done & (1 << index)))
    // What a killed caller was about to do may not have happened.
    if (open.every(({ end }) => end === Number.POSITIVE_INFINITY)) return true
    const key = `${done} ${state?.version} ${state?.key}`
    if (tried.has(key)) return false
    tried.add(key)
    const firstEnd = Math.min(...open.map(({ end }) => end))
    return open.some(({ call, start, index }) => {
      if (start > firstEnd) return false
      const next = step(state, call)
      return next !== 'impossible' && search(done | (1 << index), next)
    })
  }
  return search(0, null)
}

/** What the call makes of the state; `impossible` when it could not have had its result there. */
function step(state: State, call: Call): State | 'impossible' {
  const { result } = call
  switch (call.kind) {
    case 'create': {
      const works = state === null
      if (result !== undefined && result !== works) return 'impossible'
      return works ? { version: 1, key: call.key } : state
    }
    case 'replace': {
      const works = state !== null && state.version === call.expected
      if (result !== undefined && result !== works) return 'impossible'
      return works ? { version: call.expected + 1, key: call.key } : state
    }
    case 'get': {
      const seen = call.result
      if (seen === undefined) return state
      return seen?.version === state?.version && seen?.key === state?.key ? state : 'impossible'
    }
    case 'delete':
      return null
  }
}
