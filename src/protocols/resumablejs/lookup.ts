/**
 * Which upload a request is about. Nobody tells when an upload begins or that it has ended: there are only chunks, under a
 * name that the client has made up. So an upload that has ended stays in the way of its name, as a tombstone.
 *
 * A client that was paused for long believes that what it sent before is still there. If its next chunk opened a new
 * upload, all that follows would be a success, of a file with a hole. Only a run from the start sends the first chunk, so
 * that one clears a tombstone, and all others are a 404.
 */
import { setTimeout as wait } from 'node:timers/promises'
import { UploadNotFoundError } from '../../errors.ts'
import type { UploadSession } from '../../types.ts'
import { type Exchange, keyOf } from './exchange.ts'
import type { Plan } from './parameters.ts'

/** A new run sends its first chunks at the same time, and any of them may be here first: how long it waits, ms. */
const patience = 2_000
const pollEvery = 100

/** The upload that a chunk is for; `null`: a new one. @throws UploadNotFoundError when the chunk is not the first of a run */
export function uploadOfChunk(exchange: Exchange, plan: Plan): Promise<UploadSession | null> {
  const isLive = ({ open, state, updatedAt }: UploadSession) =>
    open || (state === 'completed' && Date.now() < updatedAt + exchange.completedGrace)
  return find(exchange, plan, isLive, () => plan.index === 0)
}

/**
 * The upload that a test is for; `null`: none. Whoever asks after the end has begun anew, be it with other bytes under the
 * same name: clients test a chunk before they send it, never after. Any test will do, for the one of the first chunk need
 * not arrive first, and once a chunk of the old file were told to be there, the new one would lack it.
 */
export function uploadOfTest(exchange: Exchange, plan: Plan): Promise<UploadSession | null> {
  const isNewRun = (session: UploadSession | null) => plan.index === 0 || session?.state === 'completed'
  return find(exchange, plan, ({ open }) => open, isNewRun)
}

async function find(
  exchange: Exchange,
  plan: Plan,
  isLive: (session: UploadSession) => boolean,
  isNewRun: (session: UploadSession | null) => boolean,
): Promise<UploadSession | null> {
  const { engine, signal } = exchange
  const key = keyOf(exchange, plan)
  for (const deadline = Date.now() + patience; ; ) {
    const found = await engine.find(key)
    if (!found) return null
    const { uploadId, session } = found
    if (session && isLive(session)) return session
    if (isNewRun(session)) {
      await engine.release(key, uploadId)
      return null
    }
    if (Date.now() >= deadline) throw new UploadNotFoundError()
    await wait(pollEvery, undefined, { signal, ref: false })
  }
}
