/** How a case ends. */

/** The server does not do what the case asks for. The message is what was seen. */
export class Failure extends Error {}

/** The case says nothing about this server. */
export class NotApplicable extends Error {}

export function fail(seen: string): never {
  throw new Failure(seen)
}

export function notApplicable(why: string): never {
  throw new NotApplicable(why)
}

export type Verdict = 'pass' | 'fail' | 'n.a.'

export interface Result {
  readonly verdict: Verdict
  /** Empty for `pass`. */
  readonly reason: string
}
