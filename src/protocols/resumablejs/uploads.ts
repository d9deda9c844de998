/** GET asks for a chunk, POST brings one; the last one that is missing makes the file. */
import { findChunk } from '../../engine/chunk-map.ts'
import { isNexusUploaderError, UploadClosedError, UploadLockedError, UploadNotFoundError } from '../../errors.ts'
import type { UploadSession } from '../../types.ts'
import { isAllThere, sendMissing, sendProgress } from './answers.ts'
import { type Arrival, receive } from './body.ts'
import { callerOf, type Exchange, keyOf } from './exchange.ts'
import { uploadOfChunk, uploadOfTest } from './lookup.ts'
import type { Plan } from './parameters.ts'

/** Only an object is a success: as long as it is not made, the last chunk is asked for once more, and tries again. */
export async function test(exchange: Exchange, plan: Plan): Promise<void> {
  const { response } = exchange
  const session = await uploadOfTest(exchange, plan)
  const isThere = session !== null && findChunk(session.chunks, plan.index) !== null
  const isAwaited = isThere && plan.index === plan.totalChunks - 1 && isAllThere(session, plan)
  if (!isThere || isAwaited) return sendMissing(response)
  sendProgress(response, session, plan)
}

interface Stored {
  readonly session: UploadSession
  readonly plan: Plan
}

export async function upload(exchange: Exchange): Promise<void> {
  const stored = await receive(exchange, (arrival) => store(exchange, arrival))
  await finish(exchange, stored)
}

async function finish(exchange: Exchange, { session, plan }: Stored): Promise<void> {
  const { engine, response } = exchange
  if (!isAllThere(session, plan)) return sendProgress(response, session, plan)
  const { url } = await engine.complete({ ...callerOf(exchange), uploadId: session.id })
  sendProgress(response, session, plan, url)
}

async function store(exchange: Exchange, arrival: Arrival): Promise<Stored> {
  const { plan } = arrival
  const session = (await uploadOfChunk(exchange, plan)) ?? (await create(exchange, arrival))
  return takesData(session) ? write(exchange, arrival, session) : repeat(exchange, arrival, session)
}

function takesData({ state, object }: UploadSession): boolean {
  return state === 'active' && object === null
}

/** Of several first chunks at the same time one creates the upload, and the others find it. */
async function create(exchange: Exchange, { plan, partName, partType }: Arrival): Promise<UploadSession> {
  const { relativePath } = plan
  const { engine } = exchange
  const key = keyOf(exchange, plan)
  const { session, resumed } = await engine.create({
    ...key,
    fileName: plan.fileName || partName || 'file',
    mimeType: plan.type || partType,
    totalSize: plan.totalSize,
    chunkSize: plan.chunkSize,
    metadata: relativePath === undefined ? {} : { relativePath },
    recognizable: true,
  })
  if (resumed || plan.totalChunks === 1 || (await engine.find(key))) return session
  // Hidden from its own client: each chunk would open another upload, and every one of them would be a success.
  await engine.abort({ ...callerOf(exchange), uploadId: session.id }).catch(() => {})
  throw new UploadNotFoundError()
}

async function write(exchange: Exchange, arrival: Arrival, session: UploadSession): Promise<Stored> {
  const { engine } = exchange
  const { plan } = arrival
  const ref = { ...callerOf(exchange), uploadId: session.id }
  try {
    const written = await engine.writeChunk({ ...ref, ...chunkOf(arrival) })
    return { session: written.session, plan }
  } catch (error) {
    const code = isNexusUploaderError(error) ? error.code : null
    if (code === 'UPLOAD_CLOSED') return overtaken(exchange, arrival, await engine.get(ref))
    if (code !== 'CHUNK_CONFLICT') throw error
    await engine.abort(ref)
    throw changed()
  }
}

/**
 * The same chunk was on its way twice, and the other one has finished the file. What was read of this one is gone, so
 * nobody can say any more whether it was the same: the next try tells.
 */
function overtaken(exchange: Exchange, arrival: Arrival, session: UploadSession): Promise<Stored> {
  if (arrival.body.readableDidRead || takesData(session)) throw new UploadLockedError()
  return repeat(exchange, arrival, session)
}

function chunkOf({ plan, body, signal }: Arrival) {
  return { index: plan.index, size: plan.size, body, signal }
}

/**
 * A chunk without a test, for an upload that is whole: a repeat whose answer was lost, or, from a client that does not
 * test, the beginning of another file under the same name. Its bytes tell. If they are others, a file of one chunk is
 * simply stored. Of a larger one some chunks may have been taken for repeats already, and would be missing; it has
 * to be sent again from the start, which the tombstone sees to.
 */
async function repeat(exchange: Exchange, arrival: Arrival, session: UploadSession): Promise<Stored> {
  const { engine } = exchange
  const { plan } = arrival
  const ref = { ...callerOf(exchange), uploadId: session.id }
  if (plan.totalChunks === 1) return repeatWhole(exchange, arrival, session)
  if (await engine.matchesChunk({ ...ref, ...chunkOf(arrival) })) return { session, plan }
  // As it is now: while the chunk came in, the file may have been told of as stored, and then it stays.
  const { state } = await engine.get(ref)
  await engine.abort({ ...ref, completed: state === 'active' ? 'remove' : 'forget' })
  throw changed()
}

async function repeatWhole(exchange: Exchange, arrival: Arrival, session: UploadSession): Promise<Stored> {
  const { engine } = exchange
  const { plan, body, signal } = arrival
  const ref = { ...callerOf(exchange), uploadId: session.id }
  const spooled = await engine.spool(body, { maxSize: plan.size, signal })
  try {
    if (await engine.matchesChunk({ ...ref, ...chunkOf({ ...arrival, body: spooled.open() }) })) {
      return { session, plan }
    }
    await engine.release(keyOf(exchange, plan), session.id)
    const next = await create(exchange, arrival)
    return await write(exchange, { ...arrival, body: spooled.open() }, next)
  } finally {
    await spooled.discard()
  }
}

function changed(): UploadClosedError {
  const message = 'Other bytes were stored for this file under the same name. Send the file again from its start.'
  return new UploadClosedError(message, { code: 'FILE_CHANGED' })
}
