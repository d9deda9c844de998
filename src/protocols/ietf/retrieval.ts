/** Asking how far an upload has come (HEAD, GET), giving it up (DELETE). */
import { setTimeout as wait } from 'node:timers/promises'
import { InvalidRequestError, UploadLockedError } from '../../errors.ts'
import type { StoredObject, UploadSession } from '../../types.ts'
import { setContentLocation, setLimit } from './answers.ts'
import { type Exchange, refOf } from './exchange.ts'
import { headerOf } from './fields.ts'
import { setCompleteness } from './interop.ts'
import { complete } from './receiving.ts'

/** Longest wait for a completion before the answer is "ask again", ms. */
const patience = 5_000

export async function retrieve(exchange: Exchange, uploadId: string): Promise<void> {
  const { engine, response, dialect } = exchange
  refuseFields(exchange, [dialect.interop.completeness, 'Upload-Offset', 'Upload-Length'])
  const { offset, session } = await engine.retrieveOffset(refOf(exchange, uploadId))
  // Clients of these drafts take the length for the success, which it is not before the file is stored.
  const isDue = dialect.interop.implicit && session.state !== 'completed' && session.totalSize === offset
  const object = isDue ? await completeSoon(exchange, session) : session.state === 'completed' ? session.object : null
  response.statusCode = 204
  response.setHeader('Upload-Offset', offset)
  setCompleteness(response, dialect.interop, object !== null)
  if (session.totalSize !== null) response.setHeader('Upload-Length', session.totalSize)
  setLimit(exchange, session)
  if (object) setContentLocation(exchange, object.url)
  response.setHeader('Cache-Control', 'no-store')
  response.end()
}

/** The completion goes on when its time is over here. @throws UploadLockedError then */
async function completeSoon(exchange: Exchange, { id, totalSize }: UploadSession): Promise<StoredObject> {
  const completing = complete(exchange, id, totalSize ?? 0)
  completing.catch(() => {})
  const bored = new AbortController()
  try {
    const late = wait(patience, null, { signal: bored.signal, ref: false }).catch(() => null)
    const object = await Promise.race([completing, late])
    if (!object) throw new UploadLockedError()
    return object
  } catch (error) {
    // A file that was refused is gone, which is what HEAD tells from now on.
    await exchange.engine.get(refOf(exchange, id))
    throw error
  } finally {
    bored.abort()
  }
}

export async function cancel(exchange: Exchange, uploadId: string): Promise<void> {
  const { engine, response, dialect } = exchange
  refuseFields(exchange, [dialect.interop.completeness, 'Upload-Offset'])
  const ref = refOf(exchange, uploadId)
  // An upload that has ended is 410; to the engine giving it up again is no error.
  await engine.get(ref)
  await engine.abort({ ...ref, completed: 'forget' })
  response.statusCode = 204
  response.end()
}

function refuseFields({ request, dialect }: Exchange, fields: readonly string[]): void {
  if (!dialect.interop.bareRetrieval) return
  const sent = fields.find((field) => headerOf(request, field) !== undefined)
  if (sent) throw new InvalidRequestError(`${sent} must not be sent with ${request.method}.`)
}
