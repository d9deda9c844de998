/** Which bytes count: holes, sizes, rivals. */
import { setTimeout as sleep } from 'node:timers/promises'
import { type Case, onlyTus } from './case.ts'
import { isOk } from './http.ts'
import { fail } from './outcome.ts'
import { content, type Subject } from './subject.ts'
import { jsonOf, piece } from './wires.ts'

const hole: Case = {
  name: 'hole',
  title: 'An upload with a hole is not taken for complete',
  async run(subject) {
    const { wire } = subject.contender
    const size = wire.name === 'tus' ? 100 : 3 * piece
    const data = content(size, 1)
    const id = await subject.create(size, 'hole.bin')
    if (wire.name === 'tus') {
      const answer = await subject.put(id, 95, data.subarray(95))
      if (!isOk(answer)) return
      const { bytes } = await subject.received(id)
      fail(`the last 5 of 100 bytes were sent: ${answer.status}, Upload-Offset ${bytes}`)
    }
    await subject.put(id, 0, data.subarray(0, piece))
    await subject.put(id, 2 * piece, data.subarray(2 * piece))
    const answer = await wire.complete?.(subject.port, id)
    if (answer && isOk(answer))
      fail(`the second of three chunks was not sent; the completion is answered ${answer.status}`)
  },
}

const offset: Case = {
  name: 'wrong-offset',
  title: 'A PATCH at an offset where the upload does not end is refused and changes nothing',
  unless: onlyTus,
  async run(subject) {
    const data = content(2000, 2)
    const id = await subject.create(data.length, 'offset.bin')
    await subject.put(id, 0, data.subarray(0, 1000))
    for (const from of [0, 500, 1001, 1999]) {
      const answer = await subject.put(id, from, Buffer.alloc(1, 'x'))
      if (isOk(answer)) fail(`the upload is at 1000, a PATCH at ${from} is answered ${answer.status}`)
    }
    await subject.finish(id, data, 1000)
    await subject.mustHave(data, 'after the refusals and the rest of the upload')
  },
}

const tooMuch: Case = {
  name: 'too-much',
  title: 'More bytes than announced are not stored',
  async run(subject) {
    const data = content(2 * piece, 3)
    const id = await subject.create(piece, 'more.bin')
    const answers = []
    if (subject.contender.wire.name === 'tus') answers.push(await subject.put(id, 0, data))
    else for (const from of [0, piece]) answers.push(await subject.put(id, from, data.subarray(from, from + piece)))
    const completed = await subject.contender.wire.complete?.(subject.port, id)
    if (completed) answers.push(completed)
    const statuses = answers.map(({ status }) => status).join(', ')
    if ((await subject.copiesOf(data)) > 0) fail(`${piece} bytes announced, ${2 * piece} stored (${statuses})`)
    if (answers.every(isOk) && (await subject.copiesOf(data.subarray(0, piece))) === 0)
      fail(`accepted (${statuses}), not stored`)
  },
}

const sizes: Case = {
  name: 'sizes',
  title: 'The sizes NaN, -1, 1.5 and 12abc are refused with a 4xx',
  async run(subject) {
    const accepted: string[] = []
    for (const size of ['NaN', -1, 1.5, '12abc']) {
      const { answer } = await subject.contender.wire.create(subject.port, { size, name: `size-${size}.bin` })
      if (answer.status < 400 || answer.status > 499) accepted.push(`${size}: ${answer.status}`)
    }
    if (accepted.length > 0) fail(accepted.join(', '))
  },
}

/** One of A or B for the first `arrived` bytes, C for the others. */
async function mustBeOneWriter(subject: Subject, size: number, arrived: number, seen: string): Promise<void> {
  for (const letter of ['A', 'B']) {
    const expected = Buffer.concat([Buffer.alloc(arrived, letter), Buffer.alloc(size - arrived, 'C')])
    if ((await subject.copiesOf(expected)) > 0) return
  }
  fail(`${seen}; the stored file has bytes of both`)
}

const rivals: Case = {
  name: 'two-writers',
  title: 'Two requests that write to one place at the same time: the file has the bytes of one of them only',
  async run(subject) {
    const { wire } = subject.contender
    const size = piece
    const id = await subject.create(size, 'rivals.bin')
    const slow = subject.openPut(id, 0, size)
    slow.write(Buffer.alloc(size / 2, 'A'))
    await sleep(300)
    const fast = await subject.put(id, 0, Buffer.alloc(size, 'B'))
    slow.write(Buffer.alloc(size / 2, 'A'))
    slow.end()
    const late = await slow.answer
    const seen = `the slow one is answered ${late?.status ?? 'by a cut'}, the fast one ${fast.status}`
    if (wire.complete) {
      const answer = await wire.complete(subject.port, id)
      if (!isOk(answer)) fail(`${seen}, the completion ${answer.status}`)
      return mustBeOneWriter(subject, size, size, seen)
    }
    const { bytes, status } = await subject.received(id)
    if (bytes === null) fail(`${seen}, HEAD ${status}`)
    if (isOk(fast) && bytes < size) fail(`${seen}, but ${bytes} of ${size} bytes are reported`)
    if (bytes < size) await subject.finish(id, Buffer.alloc(size, 'C'), bytes)
    await mustBeOneWriter(subject, size, bytes, seen)
  },
}

const completions: Case = {
  name: 'concurrent-completes',
  title: 'Ten completions at the same time: one file, and all get its URL',
  unless: ({ wire }) => (wire.complete ? null : 'an upload is complete with its last byte'),
  async run(subject) {
    const { wire } = subject.contender
    const data = content(4 * piece, 5)
    const id = await subject.create(data.length, 'concurrent.bin')
    for (let at = 0; at < data.length; at += piece) await subject.put(id, at, data.subarray(at, at + piece))
    const complete = wire.complete
    if (!complete) return
    const answers = await Promise.all(Array.from({ length: 10 }, () => complete(subject.port, id)))
    const good = answers.filter(isOk)
    const urls = new Set(good.map((answer) => jsonOf(answer).url))
    const copies = await subject.copiesOf(data)
    if (good.length < 10 || urls.size !== 1 || copies !== 1) {
      fail(`${good.length} of 10 succeed with ${urls.size} URLs; ${copies} stored files have the right bytes`)
    }
  },
}

export const byteCases: readonly Case[] = [hole, offset, tooMuch, sizes, rivals, completions]
