/** A server that runs, whatever it is made of. */
import type { ChildProcess } from 'node:child_process'
import type { ServerKind, ServerMessage, ServerQuestion } from './messages.ts'
import { answerOf, type Stage } from './processes.ts'

export interface Serving {
  readonly port: number
  readonly child: ChildProcess
  cpuSeconds(): Promise<number>
  /** After a collection; `null` where there is no such thing. */
  heapBytes(): Promise<number | null>
}

/** This server cannot be measured here; the others can. */
export class Unavailable extends Error {}

export async function startNode(
  stage: Stage,
  kind: ServerKind,
  endpoint: string | null,
  nodeFlags: readonly string[],
): Promise<Serving> {
  const child = stage.start('server.ts', [kind, stage.folder, ...(endpoint === null ? [] : [endpoint])], nodeFlags)
  const ready = await answerOf<ServerMessage>(child)
  if (ready.type !== 'ready') throw new Unavailable(ready.type === 'failed' ? ready.reason : 'no port')
  const ask = async (question: ServerQuestion) => {
    child.send(question)
    const message = await answerOf<ServerMessage>(child)
    if (message.type !== 'figure') throw new Error(`the server does not tell its ${question}`)
    return message.value
  }
  return { port: ready.port, child, cpuSeconds: () => ask('cpu'), heapBytes: () => ask('heap') }
}
