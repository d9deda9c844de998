/** What every request of Resumable.js, Flow.js and Dropzone says about its file and its chunk. */
import { ChunkSizeExceededError, FileSizeExceededError, InvalidRequestError } from '../../errors.ts'
import type { UploadLimits } from '../../types.ts'
import type { FormFields } from '../chunk-body.ts'
import { fieldOf, integerField, textField, type UploadRequest } from '../http.ts'

/** Longest identifier, name and path that are read at all, characters. */
const maxText = 4096

export type DialectName = 'resumable' | 'flow' | 'dropzone'

/** The names on the wire; a name that a client does not send is `null`. */
export interface Dialect {
  readonly name: DialectName
  /** What the first chunk is called. */
  readonly firstNumber: 0 | 1
  readonly number: string
  readonly chunkSize: string
  readonly totalSize: string
  readonly totalChunks: string
  readonly identifier: string
  readonly currentChunkSize: string | null
  readonly offset: string | null
  readonly fileName: string | null
  readonly relativePath: string | null
  readonly type: string | null
}

/** Options of Resumable.js by their own names: pass here what its constructor gets. */
export interface ParameterOptions {
  /** Put before every parameter of Resumable.js, and before the name of its file part. Default ''. */
  parameterNamespace?: string
  /** Default `resumableChunkNumber`. */
  chunkNumberParameterName?: string
  /** Default `resumableChunkSize`. */
  chunkSizeParameterName?: string
  /** Default `resumableCurrentChunkSize`. */
  currentChunkSizeParameterName?: string
  /** Default `resumableTotalSize`. */
  totalSizeParameterName?: string
  /** Default `resumableType`. */
  typeParameterName?: string
  /** Default `resumableIdentifier`. */
  identifierParameterName?: string
  /** Default `resumableFilename`. */
  fileNameParameterName?: string
  /** Default `resumableRelativePath`. */
  relativePathParameterName?: string
  /** Default `resumableTotalChunks`. */
  totalChunksParameterName?: string
  /** The name of the file part of a form, for all clients. Default `file`. */
  fileParameterName?: string
}

const flow: Dialect = {
  name: 'flow',
  firstNumber: 1,
  number: 'flowChunkNumber',
  chunkSize: 'flowChunkSize',
  totalSize: 'flowTotalSize',
  totalChunks: 'flowTotalChunks',
  identifier: 'flowIdentifier',
  currentChunkSize: 'flowCurrentChunkSize',
  offset: null,
  fileName: 'flowFilename',
  relativePath: 'flowRelativePath',
  type: null,
}

const dropzone: Dialect = {
  name: 'dropzone',
  firstNumber: 0,
  number: 'dzchunkindex',
  chunkSize: 'dzchunksize',
  totalSize: 'dztotalfilesize',
  totalChunks: 'dztotalchunkcount',
  identifier: 'dzuuid',
  currentChunkSize: null,
  offset: 'dzchunkbyteoffset',
  fileName: null,
  relativePath: null,
  type: null,
}

/** All dialects, with the names that Resumable.js was given. @throws TypeError when a name is not usable */
export function dialectsOf(options: ParameterOptions): readonly Dialect[] {
  for (const [name, value] of Object.entries(options)) {
    const isName = name === 'parameterNamespace' || (name.endsWith('ParameterName') && value !== '')
    if (value !== undefined && !(isName && typeof value === 'string')) {
      throw new TypeError(`${name} must be the name of a parameter, but it is ${JSON.stringify(value)}`)
    }
  }
  const { parameterNamespace = '' } = options
  const resumable: Dialect = {
    name: 'resumable',
    firstNumber: 1,
    number: parameterNamespace + (options.chunkNumberParameterName ?? 'resumableChunkNumber'),
    chunkSize: parameterNamespace + (options.chunkSizeParameterName ?? 'resumableChunkSize'),
    totalSize: parameterNamespace + (options.totalSizeParameterName ?? 'resumableTotalSize'),
    totalChunks: parameterNamespace + (options.totalChunksParameterName ?? 'resumableTotalChunks'),
    identifier: parameterNamespace + (options.identifierParameterName ?? 'resumableIdentifier'),
    currentChunkSize: parameterNamespace + (options.currentChunkSizeParameterName ?? 'resumableCurrentChunkSize'),
    offset: null,
    fileName: parameterNamespace + (options.fileNameParameterName ?? 'resumableFilename'),
    relativePath: parameterNamespace + (options.relativePathParameterName ?? 'resumableRelativePath'),
    type: parameterNamespace + (options.typeParameterName ?? 'resumableType'),
  }
  return [resumable, flow, dropzone]
}

function namesOf(dialect: Dialect): string[] {
  const { name: _, firstNumber: __, ...names } = dialect
  return Object.values(names).filter((name) => name !== null)
}

/** The parameters in the URL; Express may have parsed them in one of several ways, or not at all. */
export function queryOf(request: UploadRequest): URLSearchParams {
  const url = request.url ?? ''
  const start = url.indexOf('?')
  return new URLSearchParams(start < 0 ? '' : url.slice(start))
}

/** Which client is speaking; `null` when the request has the parameters of none. */
export function dialectIn(dialects: readonly Dialect[], query: URLSearchParams, fields: FormFields): Dialect | null {
  const has = (name: string) => query.has(name) || Object.hasOwn(fields, name)
  return dialects.find(({ number, identifier }) => has(number) || has(identifier)) ?? null
}

/** Whether all that the client ever sends is there. */
export function isWhole(dialect: Dialect, query: URLSearchParams, fields: FormFields): boolean {
  return namesOf(dialect).every((name) => query.has(name) || Object.hasOwn(fields, name))
}

/** One chunk, and the file it belongs to. */
export interface Plan {
  readonly dialect: Dialect
  /** From 0, for all dialects. */
  readonly index: number
  readonly totalChunks: number
  /** Bytes that this chunk must have. */
  readonly size: number
  readonly chunkSize: number
  readonly totalSize: number
  readonly fileName: string | undefined
  readonly relativePath: string | undefined
  readonly type: string | undefined
  /** Uploads with the same key are the same upload, if they are of the same owner. */
  readonly resumeKey: string
}

/**
 * Resumable.js sends the parameters of a form twice.
 * @throws InvalidRequestError when they are missing, malformed, or contradict each other
 * @throws FileSizeExceededError | ChunkSizeExceededError when no such file can be taken
 */
export function planOf(dialect: Dialect, query: URLSearchParams, fields: FormFields, limits: UploadLimits): Plan {
  const values = valuesOf(dialect, query, fields)
  const required = (name: string) => {
    const value = integerField(values, name)
    if (value === undefined) throw new InvalidRequestError(`${name} is missing.`)
    return value
  }
  const text = (name: string | null) => (name === null ? undefined : textField(values, name, maxText))
  const identifier = text(dialect.identifier)
  if (!identifier) throw new InvalidRequestError(`${dialect.identifier} is missing.`)
  const index = required(dialect.number) - dialect.firstNumber
  const [chunkSize, totalSize, totalChunks] = [dialect.chunkSize, dialect.totalSize, dialect.totalChunks].map(
    required,
  ) as [number, number, number]
  checkLayout({ dialect, index, chunkSize, totalSize, totalChunks }, limits)
  const offset = index * chunkSize
  const size = index === totalChunks - 1 ? totalSize - offset : chunkSize
  checkAgreement(values, dialect.currentChunkSize, size)
  checkAgreement(values, dialect.offset, offset)
  const fileName = text(dialect.fileName)
  const relativePath = text(dialect.relativePath)
  // A list cannot be read in two ways, whatever is in its members. Other sizes or names: another upload.
  const file = [dialect.name, identifier, totalSize, chunkSize, totalChunks, fileName ?? null, relativePath ?? null]
  const plan = { dialect, index, totalChunks, size, chunkSize, totalSize, fileName, relativePath }
  return { ...plan, type: text(dialect.type), resumeKey: JSON.stringify(file) }
}

/** The parameters by name: only those that are known, each once. */
function valuesOf(dialect: Dialect, query: URLSearchParams, fields: FormFields): Readonly<Record<string, string>> {
  const values: Record<string, string> = Object.create(null)
  for (const name of namesOf(dialect)) {
    const [value, ...more] = query.getAll(name)
    const field = fieldOf(fields, name)
    // Forms have no other line ends than this one.
    const differs = value !== undefined && field !== undefined && value.replace(/\r\n?|\n/g, '\r\n') !== String(field)
    if (more.length > 0 || differs) throw new InvalidRequestError(`${name} must have a single value.`)
    const known = value ?? field
    if (known !== undefined) values[name] = String(known)
  }
  return values
}

interface Layout extends Pick<Plan, 'dialect' | 'index' | 'chunkSize' | 'totalSize' | 'totalChunks'> {}

/** The last chunk takes the remainder as well (the default of Resumable.js and Flow.js), or the remainder is the last. */
function checkLayout({ dialect, index, chunkSize, totalSize, totalChunks }: Layout, limits: UploadLimits): void {
  if (chunkSize < 1) throw new InvalidRequestError(`${dialect.chunkSize} must be 1 or more.`)
  if (totalSize > limits.maxFileSize) throw new FileSizeExceededError(limits.maxFileSize)
  if (chunkSize > limits.maxChunkSize) throw new ChunkSizeExceededError(limits.maxChunkSize)
  const counts = [Math.floor(totalSize / chunkSize), Math.ceil(totalSize / chunkSize)]
  if (!counts.some((count) => Math.max(count, 1) === totalChunks)) {
    throw new InvalidRequestError(`${dialect.totalChunks} does not fit the sizes of file and chunks.`)
  }
  if (index >= 0 && index < totalChunks) return
  const last = totalChunks - 1 + dialect.firstNumber
  throw new InvalidRequestError(`${dialect.number} must be from ${dialect.firstNumber} to ${last}.`)
}

function checkAgreement(values: Readonly<Record<string, string>>, name: string | null, expected: number): void {
  if (name === null) return
  const told = integerField(values, name)
  if (told === undefined || told === expected) return
  throw new InvalidRequestError(`${name} is ${told}, but by the other parameters it must be ${expected}.`)
}
