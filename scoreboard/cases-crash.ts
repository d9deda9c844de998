/** Ended processes, broken bodies, broken completions. */
import { rename, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { seeded } from '../test/support/random.ts'
import type { Case } from './case.ts'
import { isOk } from './http.ts'
import { fail, notApplicable } from './outcome.ts'
import { content, eventually, type Subject } from './subject.ts'
import { piece, type Received } from './wires.ts'

/** Some pieces and a rest. */
const size = 8 * piece + 12_345
const seeds = [1, 2, 3]

function told({ status, bytes }: Received): string {
  return bytes === null ? `the question for progress is answered ${status}` : `${bytes} bytes are reported`
}

async function killWhileUploading(subject: Subject, seed: number): Promise<void> {
  const random = seeded(seed)
  const data = content(size, seed)
  const id = await subject.create(size, `killed-${seed}.bin`)
  const acknowledged = random.integer(1, 6) * piece
  for (let at = 0; at < acknowledged; at += piece) {
    const answer = await subject.put(id, at, data.subarray(at, at + piece))
    if (!isOk(answer)) fail(`a piece was answered ${answer.status}`)
  }
  const open = subject.openPut(id, acknowledged, piece)
  open.write(data.subarray(acknowledged, acknowledged + random.integer(1, piece - 1)))
  await sleep(random.integer(0, 60))
  await subject.restart()
  open.cut()
  const received = await subject.received(id)
  if (received.bytes === null || received.bytes < acknowledged) {
    fail(`seed ${seed}: ${acknowledged} bytes were acknowledged; after the restart ${told(received)}`)
  }
  await subject.finish(id, data, subject.contender.wire.name === 'tus' ? received.bytes : acknowledged)
  await subject.mustHave(data, `seed ${seed}: after the restart and the rest of the upload`)
}

const acknowledged: Case = {
  name: 'kill-upload',
  title: 'SIGKILL during an upload: what was acknowledged counts after the restart, and the upload goes on (3 seeds)',
  async run(subject) {
    for (const seed of seeds) await killWhileUploading(subject, seed)
  },
}

const completed: Case = {
  name: 'kill-completed',
  title: 'SIGKILL right after the last answer: the file is there after the restart',
  async run(subject) {
    for (const seed of seeds) {
      const data = content(size, 10 + seed)
      await subject.upload(data, `completed-${seed}.bin`)
      await subject.restart()
      await subject.mustHave(data, `seed ${seed}: after the restart`)
    }
  },
}

const broken: Case = {
  name: 'broken-body',
  title: 'A body that breaks off counts for no more than what arrived, and the upload can be finished',
  async run(subject) {
    const data = content(size, 20)
    const id = await subject.create(size, 'broken.bin')
    await subject.put(id, 0, data.subarray(0, piece))
    const sent = 100_000
    const open = subject.openPut(id, piece, piece)
    open.write(data.subarray(piece, piece + sent))
    await sleep(200)
    open.cut()
    await sleep(300)
    const received = await subject.received(id)
    const most = subject.contender.wire.name === 'tus' ? piece + sent : piece
    if (received.bytes === null || received.bytes < piece || received.bytes > most) {
      fail(`${piece} bytes and ${sent} of a broken body were sent; ${told(received)}`)
    }
    await subject.finish(id, data, received.bytes)
    await subject.mustHave(data, 'when the upload is finished')
  },
}

/** Puts a file where the folder of finished files is, so that none can be stored. */
async function withoutFolder<Result>(subject: Subject, work: () => Promise<Result>): Promise<Result> {
  const folder = join(subject.directory, 'files')
  await rename(folder, `${folder}-away`)
  await writeFile(folder, 'not a folder')
  try {
    return await work()
  } finally {
    await rename(folder, join(subject.folder, 'was-in-the-way'))
    await rename(`${folder}-away`, folder)
  }
}

const completion: Case = {
  name: 'broken-completion',
  title: 'A completion that fails because the folder of finished files is away once can be repeated',
  unless({ kind, storage }) {
    if (storage === 's3') return 'about the disk'
    return kind === 'tus-server' || kind === 'uploadx' ? 'writes to the finished file from the start' : null
  },
  async run(subject) {
    const { wire } = subject.contender
    // A first one, so that all folders are there.
    await subject.upload(content(1000, 30), 'first.bin')
    const data = content(size, 31)
    const id = await subject.create(size, 'refused.bin')
    const last = size - (size % piece)
    for (let at = 0; at < last; at += piece) await subject.put(id, at, data.subarray(at, at + piece))
    const sendLast = () => subject.put(id, last, data.subarray(last))
    if (wire.complete) await sendLast()
    const complete = wire.complete
    const refused = await withoutFolder(subject, () => (complete ? complete(subject.port, id) : sendLast()))
    if (isOk(refused)) fail(`it is answered ${refused.status} although nothing can be stored`)
    const again = () => (complete ? complete(subject.port, id) : subject.put(id, size, Buffer.alloc(0)))
    let answer = refused
    await eventually(async () => {
      answer = await again()
      return isOk(answer)
    }, 8000)
    if (!isOk(answer)) fail(`first ${refused.status}; repeated when the folder is back: ${answer.status}`)
    await subject.mustHave(data, `first ${refused.status}, then ${answer.status}; but`)
  },
}

const torn: Case = {
  name: 'torn-state',
  title: 'A torn record of an upload does not make the upload unknown (404 and 410 make clients start anew)',
  unless: ({ stateFiles }) => (stateFiles ? null : 'keeps no record in files'),
  async run(subject) {
    const { stateFiles } = subject.contender
    const id = await subject.create(size, 'torn.bin')
    const data = content(size, 40)
    await subject.put(id, 0, data.subarray(0, piece))
    await subject.kill()
    const names = (await subject.files()).filter((name) => stateFiles?.test(name))
    if (names.length === 0) notApplicable('no record was found')
    for (const name of names) await truncate(join(subject.directory, name), 60)
    await subject.start()
    const received = await subject.received(id)
    if (received.status === 404 || received.status === 410 || received.status === 403) {
      fail(`the record cut to 60 bytes: the question for progress is answered ${received.status}`)
    }
    if (isOk({ ...received, headers: {}, body: '' }) && received.bytes !== piece) fail(told(received))
  },
}

export const crashCases: readonly Case[] = [acknowledged, completed, broken, completion, torn]
