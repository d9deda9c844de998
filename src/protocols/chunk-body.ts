/**
 * The file part of a multipart/form-data request as a live stream. multer parses the form; its storage engine here hands
 * the stream on instead of storing it.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Readable, Writable } from 'node:stream'
import multer from 'multer'
import { BodyTimeoutError, InvalidRequestError, isNexusUploaderError } from '../errors.ts'
import { delimiterOf, FormFeed } from './form-feed.ts'
import { bodyTooLarge } from './http.ts'

export type FormFields = Readonly<Record<string, unknown>>

export interface FormFile {
  /** The name of the part. */
  readonly fieldName: string
  readonly stream: Readable
  readonly fileName: string
  readonly mimeType: string
}

/**
 * Called when the file part begins, with the fields that came before it. Must read the stream or throw, and end soon
 * when the signal aborts: the form turned out to be no good.
 */
export type TakeFile<Result> = (file: FormFile, fieldsBefore: FormFields, signal: AbortSignal) => Promise<Result>

export interface Form<Result> {
  /** All fields, also those after the file. */
  readonly fields: FormFields
  /** `null` when there was no file part. */
  readonly file: Result | null
}

export interface FormLimits {
  /** Most fields, without the file. */
  readonly fields: number
  /** Longest name of a field, bytes. */
  readonly fieldNameSize: number
  /** Longest value of a field, bytes. */
  readonly fieldSize: number
  /** Whether names may be like `tags[]`: 1, or 0. */
  readonly fieldNestingDepth: number
}

export interface FormPlan {
  /** The name that the file part must have; `null`: any. */
  readonly fieldName: string | null
  /** Longest form, bytes: also of what comes before the first part and after the last. */
  readonly maxBytes: number
  /** Longest silence, ms, but for the file: whoever takes it watches over it. */
  readonly idleTimeout: number
  readonly limits?: FormLimits | undefined
}

/** What a form of ours needs, and little more: hostile forms end here. */
export const chunkFormLimits: FormLimits = { fields: 8, fieldNameSize: 64, fieldSize: 1024, fieldNestingDepth: 0 }
const limits = {
  files: 1,
  headerPairs: 32,
  // A name like `a[4000000000]` would make an array of that length.
  fieldArrayIndexLimit: 0,
}

/** Options of multer that its types do not have yet. */
interface FeedOptions {
  readonly fileHwm: number
  streamHandler(request: unknown, busboy: Writable): void
}

/** busboy takes in what it is given within one write only as long as its file's stream has room, bytes. */
const mostInOneWrite = 2 ** 30

const multerMessages: Readonly<Record<string, string>> = {
  LIMIT_PART_COUNT: 'The form has too many parts.',
  LIMIT_FILE_COUNT: 'The form has more than one file part. Send one file per request.',
  LIMIT_UNEXPECTED_FILE: 'The form has a file part that this route does not expect.',
  LIMIT_FIELD_KEY: 'A field name is too long.',
  LIMIT_FIELD_VALUE: 'A field value is too long.',
  LIMIT_FIELD_COUNT: 'The form has too many fields.',
  LIMIT_FIELD_NESTING: 'A field name is nested.',
  MISSING_FIELD_NAME: 'A field has no name.',
  INVALID_FIELD_NAME: 'A field name is not valid.',
}

/**
 * Reads the form. Rejects as soon as anything fails, when `takeFile` has ended, and then reads no further: what is left
 * of the request is the caller's to drain or cut.
 * @throws InvalidRequestError for a malformed or hostile form; BodyTimeoutError; whatever `takeFile` throws
 */
export function readForm<Result>(
  request: IncomingMessage,
  response: ServerResponse,
  { fieldName, maxBytes, idleTimeout, limits: formLimits = chunkFormLimits }: FormPlan,
  takeFile: TakeFile<Result>,
): Promise<Form<Result>> {
  return new Promise((resolve, reject) => {
    let file: Result | null = null
    let taking: Promise<unknown> = Promise.resolve()
    let isTaking = false
    const stop = new AbortController()
    let size = 0
    let isOver = false
    const silence = setTimeout(() => {
      if (isTaking) silence.refresh()
      else fail(new BodyTimeoutError(idleTimeout))
    }, idleTimeout).unref()
    const count = (data: Buffer) => {
      if (isOver) return
      if (!isTaking) silence.refresh()
      size += data.length
      if (size > maxBytes) fail(bodyTooLarge(maxBytes))
    }
    const delimiter = delimiterOf(request.headers['content-type'])
    // One part more than there may be, so that what is wrong can be told: a second file, or a field too many.
    const parts = formLimits.fields + 2
    let feed: FormFeed | null = null
    const end = () => {
      isOver = true
      clearTimeout(silence)
      request.off('data', count)
    }
    const fail = (error: unknown) => {
      end()
      if (feed) feed.stop()
      else request.unpipe()
      stop.abort(error)
      taking.then(() => reject(error), reject)
    }
    const storage: multer.StorageEngine = {
      _handleFile(handled, { fieldname, stream, originalname, mimetype }, callback) {
        const fields = { ...(handled.body as object) }
        const open = feed?.divert(stream) ?? stream
        // What is thrown at once would end the process, as multer calls this from an event.
        const take = async () =>
          takeFile(
            { fieldName: fieldname, stream: open, fileName: originalname, mimeType: mimetype },
            fields,
            stop.signal,
          )
        const taken = take()
        taking = taken
        isTaking = true
        // On failure multer is not told: it would read the whole rest of the body before it answers.
        taken.then((result) => {
          isTaking = false
          silence.refresh()
          file = result
          callback(null, {})
        }, fail)
      },
      _removeFile: (_request, _file, callback) => callback(null),
    }
    const diverting: FeedOptions | null = delimiter && {
      fileHwm: mostInOneWrite,
      streamHandler(_request, busboy) {
        // All that the limits allow, the end, and those by which busboy finds that there are too many.
        feed = new FormFeed(request, busboy, delimiter, parts + 4, count)
        feed.start()
      },
    }
    const upload = multer({
      storage,
      limits: { ...limits, ...formLimits, parts },
      // Browsers write names in UTF-8, without saying so.
      defParamCharset: 'utf8',
      ...diverting,
    })
    const parse = fieldName === null ? upload.any() : upload.single(fieldName)
    // multer asks for Express' types; it uses nothing that Node's own objects lack.
    parse(request as never, response as never, (error: unknown) => {
      if (error) return fail(asFormError(error))
      end()
      resolve({ fields: { ...(request as { body?: object }).body }, file })
    })
    // Now that multer reads; it bounds the parts, not what is around them.
    if (!isOver && !feed) request.on('data', count)
  })
}

function asFormError(error: unknown): Error {
  if (isNexusUploaderError(error)) return error
  const code = (error as { code?: unknown }).code
  const known = typeof code === 'string' && Object.hasOwn(multerMessages, code) ? multerMessages[code] : undefined
  const message = known ?? 'The multipart form is malformed or ended too early.'
  return new InvalidRequestError(message, { code: 'INVALID_FORM', cause: error })
}
