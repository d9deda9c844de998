/**
 * What differs between the drafts of "Resumable Uploads for HTTP" (draft-ietf-httpbis-resumable-upload). Clients say which
 * one they speak in `Upload-Draft-Interop-Version`.
 *
 * Not in the table, since one behaviour fits all: every answer about an upload carries `Upload-Offset` (required up to 6,
 * harmless later), every refusal is a problem document, and digests (RFC 9530) are checked whenever they are sent.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { booleanField, booleanOf, headerOf, integerOf } from './fields.ts'

export const versionField = 'Upload-Draft-Interop-Version'

export interface Interop {
  readonly version: number
  /** `Upload-Incomplete` says the opposite. */
  readonly completeness: 'Upload-Complete' | 'Upload-Incomplete'
  /** Whether an append must be `application/partial-upload`. */
  readonly appendType: boolean
  /** How `Upload-Limit` calls the seconds that are left; `null`: there is no such field yet. */
  readonly age: 'expires' | 'max-age' | null
  /** Whether interim responses may carry `Upload-Offset`. */
  readonly progress: boolean
  /** The status of an append that did not complete the upload. */
  readonly appended: 201 | 204
  /**
   * Whether an append may leave the completeness open, and an upload of known length is complete as soon as that is
   * reached. Later drafts complete an upload only when the client says so.
   */
  readonly implicit: boolean
  /** Whether HEAD and DELETE must be refused when they carry upload fields. */
  readonly bareRetrieval: boolean
}

const first = {
  completeness: 'Upload-Complete',
  appendType: false,
  age: null,
  progress: true,
  appended: 201,
  implicit: true,
  bareRetrieval: true,
} as const
const sixth = { ...first, appendType: true, age: 'expires' } as const
const seventh = { ...sixth, age: 'max-age', appended: 204, implicit: false, bareRetrieval: false } as const

const newest: Interop = { ...seventh, version: 9 }

/** One row for each version that is spoken here. */
const table: readonly Interop[] = [
  { ...first, version: 3, completeness: 'Upload-Incomplete', progress: false }, // draft -01
  { ...first, version: 4, progress: false }, // -02
  { ...first, version: 5 }, // -03
  { ...sixth, version: 6 }, // -04, -05
  { ...seventh, version: 7 }, // -06 to -08
  { ...seventh, version: 8 }, // -09 to -11
  newest, // -12
]

export interface Dialect {
  readonly interop: Interop
  /**
   * `announced`: the request names a version that is spoken here. `unannounced`: it names none, and is taken for the
   * newest, but gets no interim responses. `unknown`: it names another.
   */
  readonly standing: 'announced' | 'unannounced' | 'unknown'
}

export function dialectOf(request: IncomingMessage): Dialect {
  const version = integerOf(headerOf(request, versionField))
  if (version === undefined) return { interop: newest, standing: 'unannounced' }
  const interop = table.find((row) => row.version === version)
  return interop ? { interop, standing: 'announced' } : { interop: newest, standing: 'unknown' }
}

/** Whether the request says that the upload is complete with it; `undefined`: it says nothing. */
export function completenessOf(request: IncomingMessage, { completeness }: Interop): boolean | undefined {
  const value = booleanOf(headerOf(request, completeness))
  return value === undefined || completeness === 'Upload-Complete' ? value : !value
}

export function setCompleteness(response: ServerResponse, { completeness }: Interop, complete: boolean): void {
  response.setHeader(completeness, booleanField(completeness === 'Upload-Complete' ? complete : !complete))
}
