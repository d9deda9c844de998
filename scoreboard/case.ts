/** What a row of the scoreboard is. */
import type { Contender } from './contenders.ts'
import type { Settings, Subject } from './subject.ts'

export interface Case {
  readonly name: string
  /** What a server must do to pass. */
  readonly title: string
  readonly settings?: Settings
  /** Why the case says nothing about a server; `null` when it does. */
  readonly unless?: (contender: Contender) => string | null
  /** Before the server is started. */
  readonly prepare?: (subject: Subject) => Promise<void>
  /** Throws a `Failure` with what was seen. */
  readonly run: (subject: Subject) => Promise<void>
  /** Undoes `prepare`. */
  readonly restore?: (subject: Subject) => Promise<void>
}

export const onlyS3 = ({ storage }: Contender) => (storage === 's3' ? null : 'about S3')
export const onlyDisk = ({ storage }: Contender) => (storage === 'disk' ? null : 'about the disk')
export const onlyTus = ({ wire }: Contender) => (wire.name === 'tus' ? null : 'chunks have an index, not an offset')
export const expires = ({ keepsAll }: Contender) => keepsAll
