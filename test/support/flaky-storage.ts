/** A storage that can be told to fail: before it does anything, or after it has done all of it. */
import type { StorageAdapter } from '../../src/types.ts'

export interface Trouble {
  when: 'never' | 'before' | 'after'
}

export function flaky(storage: StorageAdapter, trouble: Trouble): StorageAdapter {
  const fail = (when: Trouble['when']) => {
    if (trouble.when === when) throw new Error('the storage is out of order')
  }
  const wrap =
    <Args extends unknown[], Result>(call: (...args: Args) => Promise<Result>) =>
    async (...args: Args): Promise<Result> => {
      fail('before')
      const result = await call(...args)
      fail('after')
      return result
    }
  const { multipart, adoptFile, remove, staging } = storage
  return {
    upload: wrap(storage.upload.bind(storage)),
    ...(remove && { remove: wrap(remove.bind(storage)) }),
    ...(adoptFile && { adoptFile: wrap(adoptFile.bind(storage)) }),
    ...(staging && {
      staging: {
        put: wrap(staging.put.bind(staging)),
        open: wrap(staging.open.bind(staging)),
        remove: wrap(staging.remove.bind(staging)),
        list: staging.list.bind(staging),
      },
    }),
    ...(multipart && {
      multipart: {
        minPartSize: multipart.minPartSize,
        maxPartSize: multipart.maxPartSize,
        maxParts: multipart.maxParts,
        partSize: multipart.partSize,
        create: wrap(multipart.create.bind(multipart)),
        uploadPart: wrap(multipart.uploadPart.bind(multipart)),
        listParts: wrap(multipart.listParts.bind(multipart)),
        complete: wrap(multipart.complete.bind(multipart)),
        abort: wrap(multipart.abort.bind(multipart)),
      },
    }),
  }
}
