/**
 * What differs between the versions of "Resumable Uploads for HTTP" (draft-ietf-httpbis-resumable-upload). Clients name
 * theirs in `Upload-Draft-Interop-Version`. One row a version; the code asks the row, never the number.
 */
export interface Interop {
  readonly version: number
  /** The field that tells whether the upload is whole; `Upload-Incomplete` says the opposite of `Upload-Complete`. */
  readonly completeness: 'upload-complete' | 'upload-incomplete'
  /** Whether an append must be `application/partial-upload`. */
  readonly appendType: boolean
  /** Whether an append must say if it is the last one. */
  readonly completenessRequired: boolean
  /** Whether an upload is complete as soon as its known length has arrived, without being told. */
  readonly implicit: boolean
  /** The key of the remaining lifetime in `Upload-Limit`; `null` before there was that field. */
  readonly ageKey: 'expires' | 'max-age' | null
  /** Whether interim responses tell the progress. */
  readonly progress: boolean
  /** Status of an append that was taken and is not the last. */
  readonly appended: number
  /** Whether HEAD and DELETE that carry fields of an append are refused. */
  readonly strict: boolean
}

const early = { appendType: false, completenessRequired: false, implicit: true, appended: 201, strict: true } as const
const late = { appendType: true, completenessRequired: true, implicit: false, appended: 204, strict: false } as const
const complete = 'upload-complete'

const table: readonly Interop[] = [
  { version: 3, ...early, completeness: 'upload-incomplete', ageKey: null, progress: false },
  { version: 4, ...early, completeness: complete, ageKey: null, progress: true },
  { version: 5, ...early, completeness: complete, ageKey: null, progress: true },
  { version: 6, ...early, completeness: complete, ageKey: 'expires', progress: true, appendType: true },
  { version: 7, ...late, completeness: complete, ageKey: 'max-age', progress: true },
  { version: 8, ...late, completeness: complete, ageKey: 'max-age', progress: true },
  { version: 9, ...late, completeness: complete, ageKey: 'max-age', progress: true },
]

/** The newest: what a client speaks that names no version. */
export const newest = table.at(-1) as Interop

/** `null` for a version that is not known here. */
export function interopOf(version: number): Interop | null {
  return table.find((row) => row.version === version) ?? null
}
