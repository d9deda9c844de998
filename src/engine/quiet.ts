/** When a body that is about to be broken off has nothing more on its way. */
import type { Readable } from 'node:stream'

/** A line that brought nothing for so long, ms, although everybody was listening. */
const quietTime = 25

/**
 * Calls `then` when the body has brought nothing for a while and holds nothing that nobody has asked for, after `longest` ms
 * at the latest. Returns what ends the wait.
 */
export function whenQuiet(body: Readable, longest: number, then: () => void): () => void {
  let isListening = false
  let isQuiet = false
  let look: NodeJS.Immediate | undefined
  const end = () => {
    clearTimeout(limit)
    clearTimeout(quiet)
    clearImmediate(look)
    body.off('data', onData)
  }
  const finish = () => {
    end()
    then()
  }
  const onData = () => {
    isQuiet = false
    quiet.refresh()
  }
  const listen = () => {
    // It would begin to flow before its reader is there.
    if (isListening || body.readableFlowing === null) return
    isListening = true
    body.on('data', onData)
  }
  const limit = setTimeout(finish, longest).unref()
  const quiet = setTimeout(() => {
    isQuiet = isListening && body.readableFlowing === true
    listen()
    // Sockets are read between timers and immediates: a process that was busy hears first what came meanwhile.
    look = setImmediate(() => (isQuiet && body.readableLength === 0 ? finish() : quiet.refresh()))
  }, quietTime).unref()
  listen()
  return end
}
