/** What can go wrong, as problem documents (RFC 9457); statuses are chosen for what clients do with them. */
import { STATUS_CODES } from 'node:http'
import { isNexusUploaderError, type NexusUploaderError, toNexusUploaderError } from '../../errors.ts'
import type { UploadSession } from '../../types.ts'

const registry = 'https://iana.org/assignments/http-problem-types'

/** The registered types, with a title each. */
const types = {
  'mismatching-upload-offset': 'The upload ends at another offset',
  'inconsistent-upload-length': 'The length contradicts what was said or sent before',
  'completed-upload': 'The upload is complete already',
} as const

export interface Problem {
  readonly status: number
  /** One of the registered types; without: `about:blank`. */
  readonly type?: keyof typeof types
  readonly detail: string
  /** Ours, stable: `UPLOAD_NOT_FOUND`. */
  readonly code: string
  readonly retryable: boolean
  readonly retryAfter?: number | undefined
  readonly members?: Readonly<Record<string, unknown>>
  /** The fate of the upload is decided: the answer is the final one, and says so. */
  readonly final?: boolean
  /** Where the upload ends, bytes. */
  readonly offset?: number
  /** A limit was the reason, so the answer names the limits. */
  readonly limits?: boolean
  /** Another request has taken over: the rest of the body is nobody's. */
  readonly superseded?: boolean
}

/** A refusal in the words of this protocol. */
export class ProblemError extends Error {
  readonly problem: Problem

  constructor(problem: Problem) {
    super(problem.detail)
    this.name = 'ProblemError'
    this.problem = problem
  }
}

export function inconsistentLength(detail: string): ProblemError {
  const type = 'inconsistent-upload-length'
  return new ProblemError({ status: 400, type, code: 'INCONSISTENT_LENGTH', detail, retryable: false })
}

export function completedUpload(): ProblemError {
  const detail = 'The upload is complete and takes no more bytes.'
  return new ProblemError({ status: 400, type: 'completed-upload', code: 'UPLOAD_CLOSED', detail, retryable: false })
}

export function superseded(offset: number): ProblemError {
  const detail = `Another request has taken over this upload. It had come to byte ${offset}.`
  const code = 'UPLOAD_SUPERSEDED'
  return new ProblemError({ status: 409, code, detail, retryable: false, offset, superseded: true })
}

/** The application looked at the file and refused it. */
export function verdict({ status, code, message }: NonNullable<UploadSession['refusal']>): ProblemError {
  return new ProblemError({ status, code, detail: message, retryable: false, final: true })
}

/** The file is not the one that `Repr-Digest` promised. */
export function wrongFile(error: NexusUploaderError): ProblemError {
  const detail = 'The file does not match the Repr-Digest it was announced with. It was discarded.'
  return new ProblemError({ status: 400, code: error.code, detail, retryable: false, final: true })
}

export function refusalOf(error: unknown): UploadSession['refusal'] {
  return isNexusUploaderError(error) ? (error.details.refusal as UploadSession['refusal']) : undefined
}

/** What any thrown value is to a client. */
export function problemOf(thrown: unknown): Problem {
  if (thrown instanceof ProblemError) return thrown.problem
  const error = toNexusUploaderError(thrown)
  const { refusal, ...members } = error.details
  const { status, code, message: detail, retryable, retryAfter } = error
  const problem = { status, code, detail, retryable, retryAfter, members }
  const special = byCode[code]
  return special ? { ...problem, ...special(error) } : problem
}

const byCode: Readonly<Record<string, (error: NexusUploaderError) => Partial<Problem>>> = {
  OFFSET_MISMATCH: ({ details }) => ({
    type: 'mismatching-upload-offset',
    offset: Number(details.offset),
    members: { 'expected-offset': details.offset, 'provided-offset': details.provided },
  }),
  INCONSISTENT_LENGTH: () => ({ type: 'inconsistent-upload-length' }),
  FILE_SIZE_EXCEEDED: () => ({ limits: true }),
  CHECKSUM_MISMATCH: () => ({
    status: 400,
    detail: 'The content does not match its Content-Digest and was discarded. Send it again.',
  }),
  // 423 would end the upload in clients that repeat 5xx only.
  UPLOAD_LOCKED: () => ({ status: 503 }),
  UPLOAD_ABORTED: (error) => ({ final: refusalOf(error) !== undefined }),
}

/** Clients take any other trouble while they ask for the offset for the loss of the upload, and start again. */
export function whileRetrieving(problem: Problem): Problem {
  const isPassing = problem.retryable || problem.status >= 500 || problem.status === 429
  if (!isPassing) return problem
  return { ...problem, status: 423, retryable: true, retryAfter: problem.retryAfter ?? 2 }
}

export function documentOf({ type, status, detail, code, retryable, members }: Problem): Record<string, unknown> {
  return {
    ...members,
    type: type ? `${registry}#${type}` : 'about:blank',
    title: type ? types[type] : (STATUS_CODES[status] ?? 'Refused'),
    status,
    detail,
    code,
    retryable,
  }
}
