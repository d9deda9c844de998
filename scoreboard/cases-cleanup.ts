/** What expires, and what must not. */

import { setTimeout as sleep } from 'node:timers/promises'
import { CreateMultipartUploadCommand } from '@aws-sdk/client-s3'
import { clientOf } from '../test/support/s3-target.ts'
import { type Case, expires, onlyS3 } from './case.ts'
import { isOk } from './http.ts'
import { fail, notApplicable } from './outcome.ts'
import { content, eventually, type Subject } from './subject.ts'
import { piece } from './wires.ts'

const expiry = 1000

/** Waits until everything has expired, and has it removed. */
async function cleanUp(subject: Subject): Promise<void> {
  await sleep(expiry + 500)
  const answer = String(await subject.ask('cleanup'))
  if (answer.startsWith('failed')) notApplicable(`the cleanup ${answer}`)
  await sleep(500)
}

const abandoned: Case = {
  name: 'expired-upload',
  title: 'Cleanup removes an upload that was abandoned',
  settings: { expiry },
  unless: expires,
  async run(subject) {
    const data = content(4 * piece, 1)
    const id = await subject.create(data.length, 'abandoned.bin')
    await subject.put(id, 0, data.subarray(0, piece))
    await cleanUp(subject)
    const { status } = await subject.received(id)
    if (status !== 404 && status !== 410) fail(`HEAD is answered ${status}`)
    if ((await subject.copiesOf(data.subarray(0, piece))) > 0) fail('its bytes are still there')
  },
}

const completed: Case = {
  name: 'expired-completed',
  title: 'Cleanup leaves the files of completed uploads alone',
  settings: { expiry },
  unless: (contender) =>
    expires(contender) ?? (contender.kind === 'uploadx' ? 'documented to remove completed uploads too' : null),
  async run(subject) {
    const data = content(2 * piece + 7, 2)
    await subject.upload(data, 'completed.bin')
    if ((await subject.copiesOf(data)) === 0) notApplicable('the upload did not work')
    await cleanUp(subject)
    await subject.mustHave(data, 'after the cleanup')
  },
}

const live: Case = {
  name: 'expired-live',
  title: 'Cleanup leaves an upload alone that still gets bytes, however long it takes',
  settings: { expiry },
  unless: expires,
  async run(subject) {
    const data = content(8 * piece, 3)
    const id = await subject.create(data.length, 'slow.bin')
    const began = Date.now()
    for (let at = 0; at < data.length; at += piece) {
      const answer = await subject.put(id, at, data.subarray(at, at + piece))
      const age = `${((Date.now() - began) / 1000).toFixed(1)} s after the creation, 0.3 s after the last bytes`
      const told = subject.contender.kind === 'tus-server' ? ' (documented: counts from the creation)' : ''
      if (!isOk(answer)) fail(`expiry of 1 s: a piece is answered ${answer.status}, ${age}${told}`)
      await subject.ask('cleanup')
      await sleep(300)
    }
    const completion = await subject.contender.wire.complete?.(subject.port, id)
    if (completion && !isOk(completion)) fail(`the completion is answered ${completion.status}`)
    await eventually(async () => (await subject.copiesOf(data)) > 0, 2000)
    await subject.mustHave(data, 'after all pieces')
  },
}

const foreign: Case = {
  name: 'foreign-multipart',
  title: 'Cleanup does not abort another application’s multipart upload in the same bucket',
  settings: { expiry },
  unless: onlyS3,
  async run(subject) {
    const { target } = subject
    if (!target) throw new Error('there is no S3')
    const client = clientOf(target)
    const theirs = { Bucket: target.bucket, Key: 'backups/database.tar' }
    const { UploadId } = await client.send(new CreateMultipartUploadCommand(theirs))
    client.destroy()
    const id = await subject.create(20 * piece, 'own.bin')
    await subject.put(id, 0, content(piece, 4))
    await cleanUp(subject)
    if (!subject.s3.openUploads(target.bucket).some((upload) => upload.id === UploadId)) {
      fail('the multipart upload of backups/database.tar was aborted')
    }
  },
}

export const cleanupCases: readonly Case[] = [abandoned, completed, live, foreign]
