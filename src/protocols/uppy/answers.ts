/** Errors in the form and with the statuses that Uppy's S3 plugin understands. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { InvalidRequestError, NexusUploaderError, ProcessingError, UploadNotFoundError } from '../../errors.ts'
import type { UploadEngine } from '../../types.ts'
import { closeAfterAnswer, drain, sendError } from '../http.ts'

/** 4xx other than 429 are final for Uppy, 5xx are tried again; so 423 and 409 for what a client must mend will not do. */
function translated(error: NexusUploaderError): NexusUploaderError {
  const { message, code, details } = error
  const options = { cause: error, details }
  if (error.status === 410) return refusalIn(details) ?? new UploadNotFoundError({ cause: error })
  if (error.status === 423) return new NexusUploaderError(code, 503, message, options)
  if (code === 'UPLOAD_INCOMPLETE' || code === 'SIZE_MISMATCH') {
    return new InvalidRequestError(message, { ...options, code })
  }
  return error
}

/** The application looked at the file and refused it: a repeated request gets the same verdict. */
function refusalIn({ refusal }: NexusUploaderError['details']): ProcessingError | null {
  if (typeof refusal !== 'object' || refusal === null) return null
  const { message, code, status } = refusal as { message: string; code: string; status: number }
  return new ProcessingError(message, { code, status })
}

/** Answers a refused request so that a client which is still sending gets to see it. */
export async function sendFailure(
  engine: UploadEngine,
  request: IncomingMessage,
  response: ServerResponse,
  cause: NexusUploaderError,
): Promise<void> {
  // The line broke, or is silent. Uppy takes 4xx for final; a lost connection makes it send the part again.
  if (cause.code === 'BODY_INCOMPLETE' || cause.code === 'BODY_TIMEOUT') {
    request.destroy()
    return
  }
  const isRead = request.complete || (await drain(request, engine.limits.maxChunkSize, cause.code))
  if (!isRead) closeAfterAnswer(request, response, cause.code)
  const error = translated(cause)
  if (error.code === 'URL_EXPIRED') sendExpired(response, error)
  else sendError(response, error)
}

/** Word for word what S3 says: Uppy 5 looks for it, and asks for a new URL. */
function sendExpired(response: ServerResponse, { status, message }: NexusUploaderError): void {
  sendXml(response, status, `<Error><Code>AccessDenied</Code><Message>${message}</Message></Error>`)
}

export function sendXml(response: ServerResponse, status: number, xml: string): void {
  if (response.headersSent || response.destroyed) return
  const text = `<?xml version="1.0" encoding="UTF-8"?>\n${xml}`
  response.statusCode = status
  response.setHeader('Content-Type', 'application/xml')
  response.setHeader('Content-Length', Buffer.byteLength(text))
  response.setHeader('Cache-Control', 'no-store')
  response.setHeader('X-Content-Type-Options', 'nosniff')
  response.end(text)
}
